/* Loaded into a process (LD_PRELOAD), it makes the disk under the directory $FULL_DISK_DIR full while the file $FULL_DISK_WHEN is
 * there: files do not grow, what they have already can be written anew. Needs no privilege, unlike a small file system. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether this file may not grow to `end`. `end` < 0: by so much from where it is written to. */
static int is_full(int fd, off_t end) {
    const char *dir = getenv("FULL_DISK_DIR"), *when = getenv("FULL_DISK_WHEN");
    char link[64], path[PATH_MAX];
    struct stat found;
    int before = errno;
    if (!dir || !when || access(when, F_OK) != 0) {
        errno = before;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || strncmp(path, dir, strlen(dir)) != 0 || fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) {
        errno = before;
        return 0;
    }
    if (end < 0) {
        end = lseek(fd, 0, SEEK_CUR) - end;
    }
    errno = end > found.st_size ? ENOSPC : before;
    return end > found.st_size;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *bytes, size_t count) {
    return is_full(fd, -(off_t)count) ? -1 : REAL("write", ssize_t (*)(int, const void *, size_t))(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    off_t all = 0;
    for (int i = 0; i < count; i++) all += (off_t)pieces[i].iov_len;
    return is_full(fd, -all) ? -1 : REAL("writev", ssize_t (*)(int, const struct iovec *, int))(fd, pieces, count);
}

#define WRITE_AT(name, off)                                                                                        \
    ssize_t name(int fd, const void *bytes, size_t count, off at) {                                                \
        if (is_full(fd, (off_t)(at + (off)count))) return -1;                                                      \
        return REAL(#name, ssize_t (*)(int, const void *, size_t, off))(fd, bytes, count, at);                     \
    }
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

#define TRUNCATE(name, off)                                                                                        \
    int name(int fd, off size) {                                                                                   \
        return is_full(fd, (off_t)size) ? -1 : REAL(#name, int (*)(int, off))(fd, size);                           \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, off)                                                                                        \
    int name(int fd, off from, off size) {                                                                         \
        return is_full(fd, (off_t)(from + size)) ? ENOSPC : REAL(#name, int (*)(int, off, off))(fd, from, size);   \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)
