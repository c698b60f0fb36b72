#include "fgvideo.h"

#include <stdlib.h>

void fgv_free(void *pointer)
{
    free(pointer);
}
