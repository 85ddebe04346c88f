/* Loaded into a process (LD_PRELOAD), it makes the disk under the directory $BAD_DISK_DIR bad.
 * Needs no privilege, unlike a small file system or a device of its own.
 * Full, while the file $BAD_DISK_FULL is there: files do not grow; the bytes they have can be
 * overwritten.
 * Broken, at the $BAD_DISK_NTH write or sync of the database's files, from 1, once or
 * ($BAD_DISK_EVER) from then on: EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_broken(const char *path) {
    static atomic_long calls;
    const char *nth = getenv("BAD_DISK_NTH");
    if (!nth || !strstr(strrchr(path, '/'), ".db")) {
        return 0;
    }
    long call = atomic_fetch_add(&calls, 1) + 1, bad = atol(nth);
    return call == bad || (call > bad && getenv("BAD_DISK_EVER"));
}

/* Why this file may not be written to up to `end`, or be synced (0). `end` < 0: -`end` bytes from
 * the file's position. */
static int refusal(int fd, off_t end) {
    const char *dir = getenv("BAD_DISK_DIR"), *full = getenv("BAD_DISK_FULL");
    char link[64], path[PATH_MAX] = "";
    struct stat found;
    int before = errno, reason = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (dir && readlink(link, path, sizeof path - 1) > 0 && strncmp(path, dir, strlen(dir)) == 0 &&
        fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
        if (end < 0) {
            end = lseek(fd, 0, SEEK_CUR) - end;
        }
        if (full && end > found.st_size && access(full, F_OK) == 0) {
            reason = ENOSPC;
        } else if (is_broken(path)) {
            reason = EIO;
        }
    }
    errno = reason ? reason : before;
    return reason;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *bytes, size_t count) {
    if (refusal(fd, -(off_t)count)) return -1;
    return REAL("write", ssize_t (*)(int, const void *, size_t))(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    off_t all = 0;
    for (int i = 0; i < count; i++) all += (off_t)pieces[i].iov_len;
    if (refusal(fd, -all)) return -1;
    return REAL("writev", ssize_t (*)(int, const struct iovec *, int))(fd, pieces, count);
}

#define WRITE_AT(name, off)                                                                        \
    ssize_t name(int fd, const void *bytes, size_t count, off at) {                                \
        if (refusal(fd, (off_t)(at + (off)count))) return -1;                                      \
        return REAL(#name, ssize_t (*)(int, const void *, size_t, off))(fd, bytes, count, at);     \
    }
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

#define TRUNCATE(name, off)                                                                        \
    int name(int fd, off size) {                                                                   \
        return refusal(fd, (off_t)size) ? -1 : REAL(#name, int (*)(int, off))(fd, size);           \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, off)                                                                        \
    int name(int fd, off from, off size) {                                                         \
        if (refusal(fd, (off_t)(from + size))) return errno;                                       \
        return REAL(#name, int (*)(int, off, off))(fd, from, size);                                \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define SYNC(name)                                                                                 \
    int name(int fd) { return refusal(fd, 0) ? -1 : REAL(#name, int (*)(int))(fd); }
SYNC(fsync)
SYNC(fdatasync)
