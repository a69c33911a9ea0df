/*
 * Columns of an arena as arrays of Apache Arrow, by its C data interface
 * (https://arrow.apache.org/docs/format/CDataInterface.html), without a copy.
 *
 * Whoever gets an array may release it in any thread, with or without
 * Python's GIL, after the mux has closed and while the interpreter ends. So
 * each array holds the arena's lease, and the last holder frees the arena.
 */
#include "core.h"

#include <stdlib.h>

/* The memory that an array refers to, wherever its struct is moved. */
typedef struct {
    pmx_lease *lease;
    const void *buffers[3];
} export;

/* PyCapsule_GetPointer(): the core is not linked with Python. */
static void *(*pointer_of)(void *capsule, const char *name);
static const char *const names[] = {
    "arrow_schema", "arrow_array", "arrow_array_stream",
};

/* --- schemas ----------------------------------------------------------- */

static void release_schema(pmx_schema *schema)
{
    schema->release = NULL;
}

void pmx_arrow_schema(pmx_schema *schema, uint32_t column)
{
    *schema = (pmx_schema){
        .format = column == PMX_ARROW_IDS ? "L" : "z",
        .name = "",
        .release = release_schema,
    };
}

/* --- arrays ------------------------------------------------------------ */

static void release_array(pmx_array *array)
{
    export *of = array->private_data;
    array->release = NULL;
    pmx__lease_end(of->lease);
    free(of);
}

int pmx_arrow_array(pmx_array *array, pmx_lease *lease, uint32_t column,
                    uint32_t rows)
{
    const pmx_arena *arena = pmx__leased(lease);
    export *of = sys_calloc(1, sizeof *of);
    if (!of)
        return -ENOMEM;
    pmx__lease_more(lease);
    of->lease = lease;
    if (column == PMX_ARROW_IDS) {
        of->buffers[1] = arena->ids;
    } else {
        of->buffers[1] = arena->offsets;
        of->buffers[2] = arena->data;
    }
    *array = (pmx_array){
        .length = rows,
        .n_buffers = column == PMX_ARROW_IDS ? 2 : 3,
        .buffers = of->buffers,
        .release = release_array,
        .private_data = of,
    };
    return 0;
}

/* --- streams ----------------------------------------------------------- */

typedef struct {
    pmx_lease *lease;
    uint32_t column, rows;
    int is_over;
} one_array;

static int get_schema(pmx_stream *stream, pmx_schema *schema)
{
    const one_array *of = stream->private_data;
    pmx_arrow_schema(schema, of->column);
    return 0;
}

static int get_next(pmx_stream *stream, pmx_array *array)
{
    one_array *of = stream->private_data;
    *array = (pmx_array){0};    /* released: the end of the stream */
    if (of->is_over)
        return 0;
    int error = pmx_arrow_array(array, of->lease, of->column, of->rows);
    of->is_over = !error;
    return -error;
}

static const char *get_last_error(pmx_stream *stream)
{
    (void)stream;
    return NULL;
}

static void release_stream(pmx_stream *stream)
{
    one_array *of = stream->private_data;
    stream->release = NULL;
    pmx__lease_end(of->lease);
    free(of);
}

int pmx_arrow_stream(pmx_stream *stream, pmx_lease *lease, uint32_t column,
                     uint32_t rows)
{
    one_array *of = sys_calloc(1, sizeof *of);
    if (!of)
        return -ENOMEM;
    pmx__lease_more(lease);
    *of = (one_array){.lease = lease, .column = column, .rows = rows};
    *stream = (pmx_stream){
        .get_schema = get_schema,
        .get_next = get_next,
        .get_last_error = get_last_error,
        .release = release_stream,
        .private_data = of,
    };
    return 0;
}

/* --- capsules ---------------------------------------------------------- */

pmx_schema *pmx_arrow_new_schema(void)
{
    return sys_calloc(1, sizeof(pmx_schema));
}

pmx_array *pmx_arrow_new_array(void)
{
    return sys_calloc(1, sizeof(pmx_array));
}

pmx_stream *pmx_arrow_new_stream(void)
{
    return sys_calloc(1, sizeof(pmx_stream));
}

const char *pmx_arrow_name(uint32_t of)
{
    return names[of];
}

void pmx_arrow_capsules(void *(*get_pointer)(void *capsule, const char *name))
{
    pointer_of = get_pointer;
}

void pmx_arrow_end_schema(void *capsule)
{
    pmx_schema *schema = pointer_of(capsule, names[PMX_ARROW_SCHEMA]);
    if (schema && schema->release)
        schema->release(schema);
    free(schema);
}

void pmx_arrow_end_array(void *capsule)
{
    pmx_array *array = pointer_of(capsule, names[PMX_ARROW_ARRAY]);
    if (array && array->release)
        array->release(array);
    free(array);
}

void pmx_arrow_end_stream(void *capsule)
{
    pmx_stream *stream = pointer_of(capsule, names[PMX_ARROW_STREAM]);
    if (stream && stream->release)
        stream->release(stream);
    free(stream);
}
