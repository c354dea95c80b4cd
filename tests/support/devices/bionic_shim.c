// Lets a library built for Android's C library (bionic) run on musl, inside a test program: what the first has and the
// second lacks, and what both have with other numbers. The program exports it, so that it is found before musl's own.
// Not a port of Android: log lines go to standard error, there are no system properties.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

// --- names of bionic's own

int* __errno(void) { return &errno; }
char* __gnu_strerror_r(int error, char* text, size_t size) {
  strerror_r(error, text, size);
  return text;
}
long long strtoll_l(const char* s, char** end, int base, locale_t l) {
  (void)l;
  return strtoll(s, end, base);
}
unsigned long long strtoull_l(const char* s, char** end, int base, locale_t l) {
  (void)l;
  return strtoull(s, end, base);
}
// Handlers are dropped: the tests don't fork, and objects of a thread live until the process ends.
int __register_atfork(void (*a)(void), void (*b)(void), void (*c)(void), void* d) {
  (void)a, (void)b, (void)c, (void)d;
  return 0;
}
int __cxa_thread_atexit_impl(void (*f)(void*), void* object, void* d) {
  (void)f, (void)object, (void)d;
  return 0;
}
int __system_property_get(const char* name, char* value) {
  (void)name;
  value[0] = 0;
  return 0;
}
void __assert2(const char* file, int line, const char* function, const char* condition) {
  fprintf(stderr, "%s:%d: %s: %s\n", file, line, function, condition);
  abort();
}
void __gcov_dump(void) {}
void __gcov_flush(void) {}

// --- the log

void __android_log_assert(const char* condition, const char* tag, const char* format, ...) {
  fprintf(stderr, "[assert %s] %s %s\n", tag ? tag : "", condition ? condition : "", format ? format : "");
  abort();
}
void android_set_abort_message(const char* text) { fprintf(stderr, "abort: %s\n", text ? text : ""); }
int __android_log_write(int level, const char* tag, const char* text) {
  return fprintf(stderr, "[%d %s] %s\n", level, tag, text);
}
int __android_log_vprint(int level, const char* tag, const char* format, va_list values) {
  fprintf(stderr, "[%d %s] ", level, tag);
  vfprintf(stderr, format, values);
  return fputc('\n', stderr);
}
int __android_log_print(int level, const char* tag, const char* format, ...) {
  va_list values;
  va_start(values, format);
  int written = __android_log_vprint(level, tag, format, values);
  va_end(values);
  return written;
}

// --- fortified functions, whose last argument is the size of a buffer

void __FD_SET_chk(int f, fd_set* set, size_t have) { (void)have, FD_SET(f, set); }
int __FD_ISSET_chk(int f, const fd_set* set, size_t have) { return (void)have, FD_ISSET(f, set); }
int __open_2(const char* path, int flags) { return open(path, flags); }
void* __memcpy_chk(void* to, const void* from, size_t n, size_t have) { return (void)have, memcpy(to, from, n); }
void* __memmove_chk(void* to, const void* from, size_t n, size_t have) { return (void)have, memmove(to, from, n); }
void* __memset_chk(void* to, int c, size_t n, size_t have) { return (void)have, memset(to, c, n); }
char* __strchr_chk(const char* s, int c, size_t have) { return (void)have, strchr(s, c); }
char* __strrchr_chk(const char* s, int c, size_t have) { return (void)have, strrchr(s, c); }
size_t __strlen_chk(const char* s, size_t have) { return (void)have, strlen(s); }
ssize_t __read_chk(int f, void* to, size_t n, size_t have) { return (void)have, read(f, to, n); }
ssize_t __pread_chk(int f, void* to, size_t n, off_t at, size_t have) { return (void)have, pread(f, to, n, at); }
ssize_t __write_chk(int f, const void* from, size_t n, size_t have) { return (void)have, write(f, from, n); }
int __vsnprintf_chk(char* to, size_t n, int flags, size_t have, const char* format, va_list values) {
  return (void)flags, (void)have, vsnprintf(to, n, format, values);
}
int __vsprintf_chk(char* to, int flags, size_t have, const char* format, va_list values) {
  return (void)flags, vsnprintf(to, have, format, values);
}

// --- other numbers: bionic's names of sysconf

#define NEXT(name)                         \
  static __typeof__(&name) next;           \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

long sysconf(int name) {
  NEXT(sysconf);
  switch (name) {
    case 0x27:
    case 0x28: return next(_SC_PAGESIZE);
    case 0x60: return next(_SC_NPROCESSORS_CONF);
    case 0x61: return next(_SC_NPROCESSORS_ONLN);
    case 0x62: return next(_SC_PHYS_PAGES);
    case 0x63: return next(_SC_AVPHYS_PAGES);
    default: return next(name);
  }
}

// glibc gives libraries without versions the oldest of two, which takes no null for `resolved`.
char* realpath(const char* path, char* resolved) {
  NEXT(realpath);
  return next(path, resolved);
}

// --- other streams: bionic's stdin, stdout and stderr lie in __sF

enum { kStreams = 3, kStreamBytes = 152 };
char __sF[kStreams * kStreamBytes];

static FILE* stream(FILE* file) {
  const char* place = (const char*)file;
  if (place < __sF || place >= __sF + sizeof __sF) return file;
  switch ((place - __sF) / kStreamBytes) {
    case 0: return stdin;
    case 1: return stdout;
    default: return stderr;
  }
}

int fflush(FILE* f) {
  NEXT(fflush);
  return next(f ? stream(f) : f);
}
size_t fwrite(const void* from, size_t size, size_t n, FILE* f) {
  NEXT(fwrite);
  return next(from, size, n, stream(f));
}
int fputs(const char* s, FILE* f) {
  NEXT(fputs);
  return next(s, stream(f));
}
int fputc(int c, FILE* f) {
  NEXT(fputc);
  return next(c, stream(f));
}
int vfprintf(FILE* f, const char* format, va_list values) {
  NEXT(vfprintf);
  return next(stream(f), format, values);
}
int fprintf(FILE* f, const char* format, ...) {
  va_list values;
  va_start(values, format);
  int written = vfprintf(f, format, values);
  va_end(values);
  return written;
}
int ungetc(int c, FILE* f) {
  NEXT(ungetc);
  return next(c, stream(f));
}
int getc(FILE* f) {
  NEXT(getc);
  return next(stream(f));
}
