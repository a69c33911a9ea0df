/* What injected.c and injected_wait.c share. */
#ifndef INJECTED_PARTS_H
#define INJECTED_PARTS_H

#include "injected.h"

/* What becomes of this call: 0, an errno, SHORT or SPURIOUS. */
int injected_fate(enum injected_call call);
/* The same, with errno set to it. */
int injected_fails(enum injected_call call);
/* A descriptor was told that there is nothing (more), while there may be: the
 * next wait tells of it anew, as if something had come since. */
void injected_again(int fd);
/* It is closed. */
void injected_forget(int fd);

#endif
