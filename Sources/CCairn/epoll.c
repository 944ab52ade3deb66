#define _GNU_SOURCE
#include <sched.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include "CCairn.h"

int cairn_epoll_new(void) { return epoll_create1(EPOLL_CLOEXEC); }
int cairn_epoll_set(int epoll, int what, int fd, int interest, uint64_t tag) {
    struct epoll_event e = {.events = (interest & 1 ? EPOLLIN : 0) | (interest & 2 ? EPOLLOUT : 0), .data.u64 = tag};
    return epoll_ctl(epoll, what == 1 ? EPOLL_CTL_ADD : what == 2 ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fd, &e);
}
int cairn_epoll_wait(int epoll, uint64_t *tags, int *readiness, int capacity, int milliseconds) {
    struct epoll_event events[128];
    int n = epoll_wait(epoll, events, capacity < 128 ? capacity : 128, milliseconds);
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
