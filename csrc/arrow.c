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
static const char schema_name[] = "arrow_schema";
static const char array_name[] = "arrow_array";

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

/* --- capsules ---------------------------------------------------------- */

pmx_schema *pmx_arrow_new_schema(void)
{
    return sys_calloc(1, sizeof(pmx_schema));
}

pmx_array *pmx_arrow_new_array(void)
{
    return sys_calloc(1, sizeof(pmx_array));
}

const char *pmx_arrow_name(uint32_t is_array)
{
    return is_array ? array_name : schema_name;
}

void pmx_arrow_capsules(void *(*get_pointer)(void *capsule, const char *name))
{
    pointer_of = get_pointer;
}

void pmx_arrow_end_schema(void *capsule)
{
    pmx_schema *schema = pointer_of(capsule, schema_name);
    if (schema && schema->release)
        schema->release(schema);
    free(schema);
}

void pmx_arrow_end_array(void *capsule)
{
    pmx_array *array = pointer_of(capsule, array_name);
    if (array && array->release)
        array->release(array);
    free(array);
}
