#include <liburing.h>
#include <stdlib.h>
#include "CCairn.h"

struct cairn_ring { struct io_uring ring; };

struct cairn_ring *cairn_ring_new(unsigned depth, int *error) {
    struct cairn_ring *r = calloc(1, sizeof *r);
    *error = r ? -io_uring_queue_init(depth, &r->ring, 0) : 12;
    if (*error != 0) { free(r); return NULL; }
    return r;
}
void cairn_ring_free(struct cairn_ring *r) { io_uring_queue_exit(&r->ring); free(r); }
int cairn_ring_fd(struct cairn_ring *r) { return r->ring.ring_fd; }
// 0 when queued, -1 when the submission queue is full.
int cairn_ring_rw(struct cairn_ring *r, int write, int fd, void *memory, unsigned length, uint64_t offset, int flags, uint64_t tag) {
    struct io_uring_sqe *e = io_uring_get_sqe(&r->ring);
    if (!e) return -1;
    if (write) io_uring_prep_write(e, fd, memory, length, offset); else io_uring_prep_read(e, fd, memory, length, offset);
    e->rw_flags = flags;
    io_uring_sqe_set_data64(e, tag);
    return 0;
}
int cairn_ring_sync(struct cairn_ring *r, int fd, uint64_t tag) {
    struct io_uring_sqe *e = io_uring_get_sqe(&r->ring);
    if (!e) return -1;
    io_uring_prep_fsync(e, fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(e, tag);
    return 0;
}
int cairn_ring_submit(struct cairn_ring *r) { return io_uring_submit(&r->ring); }
unsigned cairn_ring_ready(struct cairn_ring *r) { return io_uring_sq_ready(&r->ring); }
int cairn_ring_next(struct cairn_ring *r, uint64_t *tag, int *result) {
    struct io_uring_cqe *c;
    if (io_uring_peek_cqe(&r->ring, &c) != 0) return 0;
    *tag = c->user_data;
    *result = c->res;
    io_uring_cqe_seen(&r->ring, c);
    return 1;
}
