// Counts allocations when preloaded: LD_PRELOAD=libCAllocations.so. With CAIRN_ALLOCATION_SITES=1 it tells in the end, on standard
// error, where most of them came from. Tests and benchmarks only; never part of the product.
#define _GNU_SOURCE
#include "CAllocations.h"
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The C library's own, which have names of their own for this purpose.
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum { DEPTH = 14, SITES = 4096, SHOWN = 12 };
struct site { uint64_t count; int depth; void *frames[DEPTH]; };

static _Atomic uint64_t total;
static int wants_sites;
static struct site sites[SITES];
static _Atomic int lock;
static __thread int inside;

uint64_t cairn_allocation_count(void) { return atomic_load_explicit(&total, memory_order_relaxed); }

static void note_site(void) {
    struct site seen = {.count = 1};
    if (inside) return;  // the unwinder allocates, too
    inside = 1;
    void *frames[DEPTH + 2];
    int depth = backtrace(frames, DEPTH + 2);
    seen.depth = depth > 2 ? depth - 2 : 0;
    memcpy(seen.frames, frames + 2, (size_t)seen.depth * sizeof *frames);
    uint64_t hash = 1469598103934665603u;
    for (int i = 0; i < seen.depth; i++) hash = (hash ^ (uintptr_t)seen.frames[i]) * 1099511628211u;
    while (atomic_exchange(&lock, 1)) {}
    for (int probe = 0; probe < 64; probe++) {
        struct site *s = &sites[(hash + (uint64_t)probe) % SITES];
        if (s->count == 0) *s = seen;
        else if (s->depth == seen.depth && memcmp(s->frames, seen.frames, sizeof seen.frames) == 0) s->count++;
        else continue;
        break;
    }
    atomic_store(&lock, 0);
    inside = 0;
}
static void count(void) {
    atomic_fetch_add_explicit(&total, 1, memory_order_relaxed);
    if (wants_sites) note_site();
}

void *malloc(size_t size) { count(); return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { count(); return __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { count(); return __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { count(); return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { count(); return __libc_memalign(alignment, size); }
int posix_memalign(void **result, size_t alignment, size_t size) {
    count();
    void *memory = __libc_memalign(alignment, size);
    if (!memory) return ENOMEM;
    *result = memory;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    void *frame[1];
    inside = 1;
    backtrace(frame, 1);  // loads the unwinder now, not within a malloc
    inside = 0;
    wants_sites = getenv("CAIRN_ALLOCATION_SITES") != NULL;
    unsetenv("LD_PRELOAD");  // programs that this one starts are not meant
}
static int by_count(const void *a, const void *b) {
    uint64_t x = ((const struct site *)a)->count, y = ((const struct site *)b)->count;
    return x < y ? 1 : x > y ? -1 : 0;
}
__attribute__((destructor)) static void end(void) {
    if (!wants_sites) return;
    wants_sites = 0;
    qsort(sites, SITES, sizeof *sites, by_count);
    for (int i = 0; i < SHOWN && sites[i].count; i++) {
        dprintf(2, "\n%lu allocations:\n", (unsigned long)sites[i].count);
        backtrace_symbols_fd(sites[i].frames, sites[i].depth, 2);
    }
}
