/* capture.h - what the writer and the reader of captured attention inputs agree on. */
#ifndef FGV_CAPTURE_H
#define FGV_CAPTURE_H

#include "fgvideo.h"

/* The three tensors of a capture, in the order in which they lie in a file. */
enum { FGV_CAPTURE_TENSORS = 3 };
static const char fgv_capture_suffix[FGV_CAPTURE_TENSORS] = {'q', 'k', 'v'};

/* Larger numbers than any model or run has are a sign of a damaged name. */
enum { FGV_CAPTURE_MAX_INDEX = 999999 };

#endif
