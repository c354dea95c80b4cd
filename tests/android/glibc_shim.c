// What Android's C library has and glibc lacks, beside ../devices/bionic_shim.c: the checked macros of select().
#include <stddef.h>
#include <sys/select.h>

void __FD_SET_chk(int fd, fd_set *set, size_t size) {
  (void)size;
  FD_SET(fd, set);
}

int __FD_ISSET_chk(int fd, const fd_set *set, size_t size) {
  (void)size;
  return FD_ISSET(fd, set);
}
