/* The memory in which one connection's TLS works at a time. */
#include "tls_engine.h"

#include <stdlib.h>

int pmx__area_reserve(pmx__tls_area *area, size_t more)
{
    size_t needed = area->out_size + more;
    if (needed <= area->out_room)
        return 0;
    size_t room = area->out_room + area->out_room / 2;
    if (room < needed)
        room = needed;
    uint8_t *grown = sys_realloc(area->out, room);
    if (!grown)
        return -ENOMEM;
    area->out = grown;
    area->out_room = room;
    return 0;
}

pmx__tls_area *pmx__area_new(pmx_mux *mux)
{
    pmx__tls_area *area = sys_calloc(1, sizeof *area);
    if (area && pmx__area_reserve(area, PMX__ENCRYPTED)) {
        free(area);
        area = NULL;
    }
    if (area)
        area->mux = mux;
    return area;
}

void pmx__area_free(pmx__tls_area *area)
{
    if (area)
        free(area->out);
    free(area);
}
