/* profile.h - what the reader and the writer of profiles share. */
#ifndef FGV_PROFILE_H
#define FGV_PROFILE_H

/* The last layer or head that a profile can name where it does not say how many there are. */
enum { FGV_PROFILE_MOST_LAYERS = 1 << 20 };

#endif
