/*
 * The public C API of a selector: a pmx_watch tells which descriptors are ready
 * and does nothing with them. Its functions return >= 0 or -errno.
 */
#ifndef PMX_WATCH_H
#define PMX_WATCH_H

#include <stdint.h>

/* cdef begin */
enum pmx_interest { PMX_READABLE = 1, PMX_WRITABLE = 2 };

typedef struct pmx_watch pmx_watch;

/* What a wait finds, and its memory. Each waiting thread has its own. */
typedef struct {
    pmx_watch *watch;
    int64_t *found;             /* number << 2 | enum pmx_interest */
    uint64_t room;              /* of found; a wait finds so many at most */
    int64_t left_ns;            /* of the timeout, after -EINTR */
    void *memory;               /* the backend's */
    uint64_t size;
} pmx_ready;

/* Level-triggered. Any thread may do anything with a watch at any time, but
 * free it. */
int pmx_watch_open(pmx_watch **watch, const char *backend);
/* Every later call is -EBADF. The kernel's part ends now, or with the last wait
 * that is under way. */
void pmx_watch_shut(pmx_watch *watch);
void pmx_watch_free(pmx_watch *watch);
const char *pmx_watch_name(const pmx_watch *watch);
int pmx_watch_fileno(pmx_watch *watch);
/* From what was wanted of a descriptor to what is, 0 being nothing. */
int pmx_watch_set(pmx_watch *watch, int64_t number, uint32_t had,
                  uint32_t wanted);
pmx_ready *pmx_ready_new(pmx_watch *watch, uint64_t room);
void pmx_ready_free(pmx_ready *ready);
/* How many of found are filled; 0 when the time is over. */
int pmx_ready_wait(pmx_ready *ready, int64_t timeout_ns);
/* The same without waiting. It has an argument less, which a caller can
 * feel. */
int pmx_ready_look(pmx_ready *ready);
/* cdef end */

#endif
