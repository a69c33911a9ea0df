/* What the files of injected.h share. */
#ifndef INJECTED_PARTS_H
#define INJECTED_PARTS_H

#include "injected.h"

/* What becomes of this call: 0, an errno, SHORT or SPURIOUS. */
int injected_fate(enum injected_call call);
/* The same, with errno set to it. */
int injected_fails(enum injected_call call);
/* The fate of a call that moves bytes: 0, or an errno. After a reset nothing
 * more comes, and what is sent fails, as with a real one. */
int injected_bytes(enum injected_call call, int fd, size_t *size);
/* The first `size` bytes of the spans. */
void injected_cut(struct iovec *to, const struct iovec *from, int count,
                  size_t size);
/* A descriptor was told that there is nothing (more), while there may be: the
 * next wait tells of it anew, as if something had come since. */
void injected_again(int fd);
/* It is closed. */
void injected_forget(int fd);

#endif
