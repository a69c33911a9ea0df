/*
 * Columns of an arena as arrays of Apache Arrow: the rest of the public C API.
 * Between the two markers stands what cffi reads, behind that of pymux.h.
 */
#ifndef PMX_ARROW_H
#define PMX_ARROW_H

#include "pymux.h"

/* cdef begin */
/* ArrowSchema and ArrowArray of Apache Arrow's C data interface. */
typedef struct pmx_schema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct pmx_schema **children, *dictionary;
    void (*release)(struct pmx_schema *schema);
    void *private_data;
} pmx_schema;

typedef struct pmx_array {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct pmx_array **children, *dictionary;
    void (*release)(struct pmx_array *array);
    void *private_data;
} pmx_array;

/* ArrowArrayStream, which brings arrays of one type: errno or 0. */
typedef struct pmx_stream {
    int (*get_schema)(struct pmx_stream *stream, pmx_schema *schema);
    int (*get_next)(struct pmx_stream *stream, pmx_array *array);
    const char *(*get_last_error)(struct pmx_stream *stream);
    void (*release)(struct pmx_stream *stream);
    void *private_data;
} pmx_stream;

enum pmx_arrow_column { PMX_ARROW_MESSAGES, PMX_ARROW_IDS };

/* The lease of an arena that is owned, for pmx_lease_drop(), which any thread
 * may call, also after the arena is gone. NULL: no memory. */
pmx_lease *pmx_arena_lease(pmx_arena *arena);
void pmx_lease_drop(pmx_lease *lease);
/* How many there are: the owner is one. */
int pmx_lease_holders(pmx_lease *lease);
/* Fill a schema or an array of a column, whose memory it shares: the owner of
 * the arena must not change that while there is a holder beside it. Gaps are
 * closed. Any thread may release either. 0 or -ENOMEM. */
void pmx_arrow_schema(pmx_schema *schema, uint32_t column);
int pmx_arrow_array(pmx_array *array, pmx_lease *lease, uint32_t column,
                    uint32_t rows);
/* The same as a stream of one array. Each array that is taken holds the arena
 * for itself, and so does the stream. */
int pmx_arrow_stream(pmx_stream *stream, pmx_lease *lease, uint32_t column,
                     uint32_t rows);
/* Structs for capsules, empty, as if released; NULL: no memory. */
pmx_schema *pmx_arrow_new_schema(void);
pmx_array *pmx_arrow_new_array(void);
pmx_stream *pmx_arrow_new_stream(void);
/* The name of a capsule, for as long as the process lives. */
enum pmx_arrow_struct { PMX_ARROW_SCHEMA, PMX_ARROW_ARRAY, PMX_ARROW_STREAM };
const char *pmx_arrow_name(uint32_t of);
/* Destructors of capsules: they release what nobody has taken, and free the
 * struct. The first call tells how a capsule's pointer is had. */
void pmx_arrow_capsules(void *(*get_pointer)(void *capsule, const char *name));
void pmx_arrow_end_schema(void *capsule);
void pmx_arrow_end_array(void *capsule);
void pmx_arrow_end_stream(void *capsule);
/* cdef end */

#endif
