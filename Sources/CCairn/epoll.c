#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "CCairn.h"

int cairn_epoll_new(void) { return epoll_create1(EPOLL_CLOEXEC); }
int cairn_epoll_set(int epoll, int what, int fd, int interest, uint64_t tag) {
    struct epoll_event e = {.events = (interest & 1 ? EPOLLIN : 0) | (interest & 2 ? EPOLLOUT : 0), .data.u64 = tag};
    return epoll_ctl(epoll, what == 1 ? EPOLL_CTL_ADD : what == 2 ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fd, &e);
}
// -1: for ever. Milliseconds would be too coarse for paced loads; kernels before 5.11 do it with two calls.
int cairn_epoll_wait(int epoll, uint64_t *tags, int *readiness, int capacity, int64_t nanoseconds) {
    struct epoll_event events[128];
    static _Atomic int needs_two_calls;
    struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000)};
    int room = capacity < 128 ? capacity : 128, n = -1;
    if (nanoseconds <= 0) {
        n = epoll_wait(epoll, events, room, nanoseconds < 0 ? -1 : 0);
    } else {
        if (!needs_two_calls) n = (int)syscall(441 /* epoll_pwait2 */, epoll, events, room, &time, NULL, 8L);
        if (needs_two_calls || (n < 0 && (errno == ENOSYS || errno == EPERM))) {
            needs_two_calls = 1;
            struct pollfd any = {.fd = epoll, .events = POLLIN};
            n = ppoll(&any, 1, &time, NULL);
            if (n > 0) n = epoll_wait(epoll, events, room, 0);
        }
    }
    for (int i = 0; i < n; i++) {
        tags[i] = events[i].data.u64;
        readiness[i] = (events[i].events & EPOLLIN ? 1 : 0) | (events[i].events & EPOLLOUT ? 2 : 0) |
                       (events[i].events & (EPOLLHUP | EPOLLERR) ? 4 : 0);
    }
    return n;
}
int cairn_timer_new(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }
int cairn_timer_set(int timer, uint64_t at) {
    struct itimerspec t = {.it_value = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)}};
    return timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

// Processors that this process may use.
int cairn_processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}
