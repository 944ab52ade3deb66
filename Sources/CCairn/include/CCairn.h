// What Swift's importer cannot see: GNU functions, macros with casts, variadic functions, static-inline helpers.
// Every function returns what the wrapped one returns and leaves errno alone. No logic here.
#pragma once
#include <stdint.h>
#include <sys/xattr.h>
#include <sys/types.h>

// System calls behind GNU or variadic declarations.
ssize_t cairn_preadv2(int fd, void *memory, size_t length, int64_t offset, int flags);
ssize_t cairn_pwritev2(int fd, const void *memory, size_t length, int64_t offset, int flags);
int cairn_fallocate(int fd, int mode, int64_t offset, int64_t length);
int cairn_eventfd(void);
int cairn_getrandom(void *memory, size_t length);
const char *cairn_errno_text(int number);
int cairn_ofd_lock(int fd, int exclusive, int64_t start, int64_t length);
int cairn_ofd_locked(int fd, int64_t start, int64_t length);
int cairn_peer(int fd, int *pid, unsigned *uid, unsigned *gid);
int cairn_accept(int fd);
int cairn_set_close_on_exec(int fd, int on);
int cairn_spawn_detached(const char *path, char *const argv[], char *const envp[], int out, int ready, int *pid);
int cairn_flush_exempt(void);

// Block device facts. 0 on success.
int cairn_block_facts(int fd, uint64_t *bytes, int *logical, unsigned *physical, unsigned *minimum, unsigned *optimal, int *readonly);
int cairn_block_range(int fd, uint64_t offset, uint64_t length, int zero);
int cairn_loop_backing(int fd, uint64_t *device, uint64_t *inode);
// Files: birth time in ns (0: none) and direct I/O alignment (0: unknown).
int cairn_file_facts(int fd, uint64_t *birth, uint32_t *direct_alignment);

// io_uring; liburing.h itself cannot be imported (it redefines feature macros of libc).
struct cairn_ring;
struct cairn_ring *cairn_ring_new(unsigned depth, int *error);
void cairn_ring_free(struct cairn_ring *ring);
int cairn_ring_fd(struct cairn_ring *ring);
int cairn_ring_rw(struct cairn_ring *ring, int write, int fd, void *memory, unsigned length, uint64_t offset, int flags, uint64_t tag);
int cairn_ring_sync(struct cairn_ring *ring, int fd, uint64_t tag);
int cairn_ring_submit(struct cairn_ring *ring);
unsigned cairn_ring_ready(struct cairn_ring *ring);
int cairn_ring_next(struct cairn_ring *ring, uint64_t *tag, int *result);

// epoll. interest and readiness: 1 readable, 2 writable, 4 hung up or broken.
int cairn_epoll_new(void);
int cairn_processors(void);
int cairn_epoll_set(int epoll, int what /* 1 add, 2 change, 3 remove */, int fd, int interest, uint64_t tag);
int cairn_epoll_wait(int epoll, uint64_t *tags, int *readiness, int capacity, int64_t nanoseconds);
// Readable once CLOCK_MONOTONIC has reached `at` nanoseconds; 0: never.
int cairn_timer_new(void);
int cairn_timer_set(int timer, uint64_t at);

// The command line, parsed by glibc's getopt_long, as dmsetup's is.
struct cairn_option { const char *name; int takes_argument; int value; };
int cairn_getopt(int argc, char **argv, const char *letters, const struct cairn_option *options, int count, const char **argument);
int cairn_getopt_index(void);

// Columns by libdevmapper's report engine. A row is an array of cells, one per field.
// type: 0 text, 1 number, 2 number of sectors, 3 percent (millionths of a percent; -1: none).
// kind: 1 name, 2 information, 4 relationship, 8 name components, 16 cairn's own, 32 target, 64 I/O, 128 cache.
struct cairn_field { const char *id; const char *heading; const char *description; int width; int type; int kind; };
// A number with a text is printed as that text.
struct cairn_cell { const char *text; uint64_t number; int percent; };
// units NULL: sizes are plain numbers of sectors. json: the name of the list of rows, NULL: no JSON.
struct cairn_report_style {
    const char *columns; const char *separator; const char *sort; const char *selection; const char *units; const char *json;
    unsigned flags; int no_suffix;
};
int cairn_report(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const struct cairn_report_style *style);
int cairn_units_are_known(const char *units);
// The rows an expression selects: selected[i] becomes 0 or 1. 0 when the expression is wrong.
int cairn_select(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const char *selection, unsigned char *selected);
const char *cairn_library_version(void);
