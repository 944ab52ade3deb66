#pragma once
#include <stdint.h>
// Allocations of this process since it began: malloc, calloc, realloc and the aligned ones, of all threads.
uint64_t cairn_allocation_count(void);
