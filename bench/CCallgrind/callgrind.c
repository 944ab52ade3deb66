#include "CCallgrind.h"
#include <valgrind/callgrind.h>

int cairn_counts(void) { return RUNNING_ON_VALGRIND != 0; }
void cairn_count_begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}
void cairn_count_end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
