/* scene.h - attention with structure that drifts from step to step, a session over it, and exact figures of what the
 * session's masks lose, over every query and from double-precision probabilities. */
#ifndef TESTS_ATTN_SCENE_H
#define TESTS_ATTN_SCENE_H

#include "naive.h"

typedef struct scene {
    naive_problem p;
    int64_t tokens, heads; /* heads = batch * query_heads; the first is sharp, later ones more and more diffuse */
    double drift;          /* how far keys move per step, in units of the whole circle on which tokens lie */
    uint64_t seed;
    float *q, *k, *v, *o; /* of the last scene_set and scene_call */
} scene;

typedef struct stage {
    fga_context *ctx;
    fga_policy policy;
    fga_session_desc desc;
    fga_session *session;
    void *workspace;
    size_t workspace_bytes; /* followed by a guard */
} stage;

scene scene_make(uint64_t seed, fga_sequence sequence, double drift);
void scene_free(scene *s);
/* q, k and v of a step, layer and branch, the same whenever they are asked for. */
void scene_set(scene *s, int step, int layer, int branch);
fga_attend_args scene_args(const scene *s);

/* A context and a session description for the scene under a policy text; the session is for stage_open to make. */
stage stage_make(const scene *s, const char *policy, int layers, int branches, int threads);
void stage_open(stage *t);
void stage_close(stage *t);
/* scene_set and fga_session_attend: what ran. */
fga_step_kind stage_call(stage *t, scene *s, int step, int steps, int layer, int branch);

/* Over all valid video queries, per head: recall of the kept keys, and the error of s->o. */
void scene_exact(const scene *s, const fga_mask *mask, double *recall, double *error);
/* s->o is the attention under the mask (NULL = dense), with summaries of `group` keys (0 = none). */
void scene_check(const scene *s, const fga_mask *mask, int64_t group);
bool same_mask(const fga_mask *a, const fga_mask *b);

#endif
