/* What every program includes, in order. */
#include "ztun_types.h"
#include "ztun_maps.h"
#include "ztun_parse.h"
#include "ztun_verdict.h"
#include "ztun_flows.h"
#include "ztun_sockets.h"
#include "ztun_segments.h"
#include "ztun_neighbours.h"
