/* What the files share that send: log.c, switch.c and output.c, each of which
 * uses those behind it. */
#ifndef PMX_OUTPUT_H
#define PMX_OUTPUT_H

#include "turn.h"

/* output.c: sending */
int pmx__send_refused(pmx_mux *mux, pmx__conn *c, int error);
int pmx__queue_frame(pmx_mux *mux, pmx__conn *c, const pmx__piece *p,
                     size_t skip);
void pmx__send_pieces(pmx_mux *mux, pmx__dirty *entry);

/* switch.c: another policy from here on */
void pmx__switch(pmx_mux *mux, uint32_t slot, const uint8_t *piece,
                 size_t size);

#endif
