/* Lets system calls on the files below a folder fail, as on a disk that is full, read-only, broken or
 * disconnected. benchmarks/interruptions.py compiles it, loads it with LD_PRELOAD and calls arm.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1, VANISH = -2 };

static char root[PATH_MAX], name[PATH_MAX], call[16];
static int number, code, record = -1, seen, is_down;

/* From the number-th call of a kind on files below root whose path matches name, this call and all
 * others that such a disk refuses fail with the error code. With the code KILL the process is killed
 * instead, with VANISH the folder is renamed to root.gone. Each call is written to the descriptor
 * record if it is not -1, and "fault" when it occurs.
 */
void arm(const char *its_root, const char *its_call, const char *its_name, int its_number,
         int its_code, int its_record) {
  strncpy(root, its_root, sizeof root - 1);
  strncpy(name, its_name, sizeof name - 1);
  strncpy(call, its_call, sizeof call - 1);
  number = its_number, code = its_code, record = its_record, seen = is_down = 0;
}

static void occur(void) {
  char gone[PATH_MAX + 8];
  is_down = 1;
  if (record >= 0) dprintf(record, "fault\n");
  if (code == KILL) kill(getpid(), SIGKILL);
  if (code == VANISH) {
    snprintf(gone, sizeof gone, "%s.gone", root);
    renameat2(AT_FDCWD, root, AT_FDCWD, gone, 0);
  }
}

static int refuses(const char *asked) {
  if (!strcmp(asked, "remove")) return code == EROFS || code == ESTALE;
  if (!strcmp(asked, "rename")) return code > 0 && code != ENOSPC;
  return code > 0;
}

static int fails(const char *asked, const char *path) {
  size_t length = strlen(root);
  if (!length || !path || strncmp(path, root, length) || (path[length] && path[length] != '/'))
    return 0;
  path += path[length] ? length + 1 : length;
  if (record >= 0) dprintf(record, "%s %s\n", asked, path);
  if (!is_down && !strcmp(asked, call) && !fnmatch(name, path, 0) && ++seen == number) occur();
  if (!is_down || !refuses(asked)) return 0;
  errno = code;
  return 1;
}

static const char *absolute(int folder, const char *path, char *buffer) {
  char link[64];
  ssize_t length = 0;
  if (!*root || (path && *path == '/')) return path;
  if (folder == AT_FDCWD) {
    if (!getcwd(buffer, PATH_MAX)) return path;
    length = strlen(buffer);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    if ((length = readlink(link, buffer, PATH_MAX - 1)) < 0) return path;
  }
  buffer[length] = 0;
  if (path) snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  return buffer;
}

#define REAL(type, function, ...)                                   \
  static type (*real)(__VA_ARGS__);                                 \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #function)
#define FAILS(asked, folder, path)                                  \
  char buffer[PATH_MAX];                                            \
  if (*root && fails(asked, absolute(folder, path, buffer)))

#define OPEN(function, folder, ...)                                 \
  va_list more;                                                     \
  va_start(more, flags);                                            \
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
  va_end(more);                                                     \
  if (flags & (O_WRONLY | O_RDWR | O_CREAT)) {                      \
    FAILS("open", folder, path) return -1;                          \
  }                                                                 \
  return real(__VA_ARGS__, mode)

int open(const char *path, int flags, ...) {
  REAL(int, open, const char *, int, ...);
  OPEN(open, AT_FDCWD, path, flags);
}
int open64(const char *path, int flags, ...) {
  REAL(int, open64, const char *, int, ...);
  OPEN(open64, AT_FDCWD, path, flags);
}
int openat(int folder, const char *path, int flags, ...) {
  REAL(int, openat, int, const char *, int, ...);
  OPEN(openat, folder, folder, path, flags);
}
int openat64(int folder, const char *path, int flags, ...) {
  REAL(int, openat64, int, const char *, int, ...);
  OPEN(openat64, folder, folder, path, flags);
}
FILE *fopen(const char *path, const char *mode) {
  REAL(FILE *, fopen, const char *, const char *);
  if (strpbrk(mode, "wa+")) {
    FAILS("open", AT_FDCWD, path) return NULL;
  }
  return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  REAL(FILE *, fopen64, const char *, const char *);
  if (strpbrk(mode, "wa+")) {
    FAILS("open", AT_FDCWD, path) return NULL;
  }
  return real(path, mode);
}
ssize_t write(int file, const void *content, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  FAILS("write", file, NULL) return -1;
  return real(file, content, size);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  FAILS("write", file, NULL) return -1;
  return real(file, parts, count);
}
ssize_t pwrite(int file, const void *content, size_t size, off_t at) {
  REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
  FAILS("write", file, NULL) return -1;
  return real(file, content, size, at);
}
ssize_t pwrite64(int file, const void *content, size_t size, off64_t at) {
  REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
  FAILS("write", file, NULL) return -1;
  return real(file, content, size, at);
}
size_t fwrite(const void *content, size_t size, size_t count, FILE *file) {
  REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
  FAILS("write", fileno(file), NULL) return 0;
  return real(content, size, count, file);
}
int mkdir(const char *path, mode_t mode) {
  REAL(int, mkdir, const char *, mode_t);
  FAILS("mkdir", AT_FDCWD, path) return -1;
  return real(path, mode);
}
int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  FAILS("rename", AT_FDCWD, to) return -1;
  return real(from, to);
}
int unlink(const char *path) {
  REAL(int, unlink, const char *);
  FAILS("remove", AT_FDCWD, path) return -1;
  return real(path);
}
int rmdir(const char *path) {
  REAL(int, rmdir, const char *);
  FAILS("remove", AT_FDCWD, path) return -1;
  return real(path);
}
int unlinkat(int folder, const char *path, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  FAILS("remove", folder, path) return -1;
  return real(folder, path, flags);
}
