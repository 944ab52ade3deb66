#define _GNU_SOURCE
#include "CCairn.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

// Not through the C library's functions: those are cancellation points, and the two atomic operations around each call, in a process with
// threads, were 5 % of a cached read of 4 KiB. A word holds an offset: 64-bit systems only.
// Where a filter or an emulator does not know them, plain calls do what has no flags, as in the C library.
_Static_assert(sizeof(long) == 8, "preadv2 takes an offset in one word");
ssize_t cairn_preadv2(int fd, void *memory, size_t length, int64_t offset, int flags) {
    struct iovec v = {memory, length};
    ssize_t done = syscall(SYS_preadv2, fd, &v, 1L, offset, 0L, flags);
    return done < 0 && errno == ENOSYS && flags == 0 ? preadv(fd, &v, 1, offset) : done;
}
ssize_t cairn_pwritev2(int fd, const void *memory, size_t length, int64_t offset, int flags) {
    struct iovec v = {(void *)memory, length};
    ssize_t done = syscall(SYS_pwritev2, fd, &v, 1L, offset, 0L, flags);
    return done < 0 && errno == ENOSYS && flags == 0 ? pwritev(fd, &v, 1, offset) : done;
}
int cairn_fallocate(int fd, int mode, int64_t offset, int64_t length) { return fallocate(fd, mode, offset, length); }
int cairn_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }
int cairn_getrandom(void *memory, size_t length) { return getrandom(memory, length, 0) == (ssize_t)length ? 0 : -1; }
const char *cairn_errno_text(int number) { return strerrordesc_np(number); }
int cairn_ofd_lock(int fd, int exclusive, int64_t start, int64_t length) {
    struct flock l = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_SETLK, &l);
}
int cairn_ofd_locked(int fd, int64_t start, int64_t length) {
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}
int cairn_peer(int fd, int *pid, unsigned *uid, unsigned *gid) {
    struct ucred c;
    socklen_t n = sizeof c;
    int r = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n);
    if (r == 0) { *pid = c.pid; *uid = c.uid; *gid = c.gid; }
    return r;
}
int cairn_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }
int cairn_set_close_on_exec(int fd, int on) { return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0); }
// stdin from /dev/null, stdout and stderr to `out`, `ready` becomes descriptor 3, everything else closes on exec.
int cairn_spawn_detached(const char *path, char *const argv[], char *const envp[], int out, int ready, int *pid) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    posix_spawn_file_actions_adddup2(&files, out, 2);
    posix_spawn_file_actions_adddup2(&files, ready, 3);
    posix_spawn_file_actions_addclosefrom_np(&files, 4);
    // It lives longer than the command: it must not keep the filesystem it was started in from being unmounted.
    posix_spawn_file_actions_addchdir_np(&files, "/");
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    int r = posix_spawn(pid, path, &files, &attributes, argv, envp);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return r;
}
int cairn_flush_exempt(void) { return prctl(57 /* PR_SET_IO_FLUSHER */, 1, 0, 0, 0); }

int cairn_block_facts(int fd, uint64_t *bytes, int *logical, unsigned *physical, unsigned *minimum, unsigned *optimal, int *readonly) {
    if (ioctl(fd, BLKGETSIZE64, bytes) != 0 || ioctl(fd, BLKSSZGET, logical) != 0) return -1;
    if (ioctl(fd, BLKPBSZGET, physical) != 0) *physical = (unsigned)*logical;
    if (ioctl(fd, BLKIOMIN, minimum) != 0) *minimum = *physical;
    if (ioctl(fd, BLKIOOPT, optimal) != 0) *optimal = 0;
    if (ioctl(fd, BLKROGET, readonly) != 0) *readonly = 0;
    return 0;
}
int cairn_block_range(int fd, uint64_t offset, uint64_t length, int zero) {
    uint64_t range[2] = {offset, length};
    return zero ? ioctl(fd, BLKZEROOUT, range) : ioctl(fd, BLKDISCARD, range);
}
int cairn_loop_backing(int fd, uint64_t *device, uint64_t *inode) {
    struct loop_info64 info;
    int r = ioctl(fd, LOOP_GET_STATUS64, &info);
    if (r == 0) { *device = info.lo_device; *inode = info.lo_inode; }
    return r;
}
int cairn_file_facts(int fd, uint64_t *birth, uint32_t *direct_alignment) {
    struct statx s;
    memset(&s, 0, sizeof s);
    *birth = 0;
    *direct_alignment = 0;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME | 0x2000 /* STATX_DIOALIGN */, &s) != 0) return -1;
    if (s.stx_mask & STATX_BTIME) *birth = (uint64_t)s.stx_btime.tv_sec * 1000000000u + s.stx_btime.tv_nsec;
    // stx_dio_offset_align stands at byte 0x9c of struct statx since Linux 6.1; Debian 12's header lacks the name.
    if (s.stx_mask & 0x2000) memcpy(direct_alignment, (char *)&s + 0x9c, 4);
    return 0;
}
