/*
 * The load generator of `pymux bench`, on the rest of the public C API. Between
 * the two markers stands what cffi reads, behind that of pymux.h.
 */
#ifndef PMX_LOAD_H
#define PMX_LOAD_H

#include "pymux.h"

/* cdef begin */
typedef struct pmx_load pmx_load;

/* The bytes that a load sends, and those that are to come back. The caller keeps all memory. */
typedef struct {
    uint32_t conns;
    uint32_t depth;             /* messages of a connection in flight */
    uint32_t framed;            /* an answer is a message, else only bytes */
    uint32_t count;             /* messages of the ring that is sent, */
    uint64_t size;              /* each of so many bytes; */
    const uint8_t *questions;   /* one after another */
    const uint8_t *answers;
    const pmx_endpoint *endpoints;
    uint32_t endpoint_count;
    const pmx_policy *policy;
} pmx_load_plan;

enum { PMX_BUCKETS = 7424 };

typedef struct {
    uint32_t opened;
    uint32_t lost;              /* connections that ended or were never made */
    uint32_t wrong;             /* that got what is not due */
    int32_t error;              /* errno of the first that was lost, 0: none */
    uint64_t in_flight;
    uint64_t answered;          /* these since the last pmx_load_clear() */
    uint64_t max_ns;
    uint64_t buckets[7424];     /* PMX_BUCKETS: latencies, right to 1% */
} pmx_load_figures;

enum pmx_load_mode {
    PMX_LOAD_CONNECT,           /* until every connection is open or lost */
    PMX_LOAD_SEND,
    PMX_LOAD_FINISH             /* until nothing is in flight */
};

int pmx_load_open(pmx_load **load, const char *backend,
                  const pmx_load_plan *plan);
void pmx_load_close(pmx_load *load);
/* Go on for span_ns; a signal may end it sooner. 0 or -errno. */
int pmx_load_run(pmx_load *load, uint32_t mode, int64_t span_ns);
const pmx_load_figures *pmx_load_counts(const pmx_load *load);
void pmx_load_clear(pmx_load *load);
/* The latency in ns that this share of the answers did not exceed. */
uint64_t pmx_load_quantile(const pmx_load *load, double quantile);
/* cdef end */

#endif
