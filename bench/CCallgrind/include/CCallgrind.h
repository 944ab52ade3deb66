#pragma once
// Between the two callgrind counts; the counts go to a file of their own under this name. Both do nothing without valgrind.
void cairn_count_begin(void);
void cairn_count_end(const char *name);
int cairn_counts(void);
