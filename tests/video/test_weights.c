/* Safetensors, sharded and single, well-formed and hostile; config.json. Files are written to a temporary directory. */
#include "base/half.h"
#include "video/config.h"
#include "video/safetensors.h"
#include "video/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static fga_context *ctx;
static char dir[] = "/tmp/fgattn-weights-XXXXXX";
static char log_lines[4096];

static void log_line(void *user, const char *line)
{
    (void)user;
    strncat(log_lines, line, sizeof log_lines - strlen(log_lines) - 2);
    strcat(log_lines, "\n");
}

static int setup(void **state)
{
    (void)state;
    fga_context_options options = fga_context_options_default();
    options.log = log_line;
    return mkdtemp(dir) != NULL && fga_context_create(&options, &ctx) == FGA_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fga_context_destroy(&ctx);
    return rmdir(dir); /* every test removes what it wrote */
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_bytes(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *name)
{
    assert_int_equal(unlink(path_of(name)), 0);
}

/* Length, header, then data_bytes bytes 0, 1, 2, ... */
static size_t build(unsigned char *out, uint64_t length, const char *header, size_t data_bytes)
{
    size_t header_bytes = strlen(header);
    for (int i = 0; i < 8; i++) {
        out[i] = (unsigned char)(length >> (8 * i));
    }
    memcpy(out + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) {
        out[8 + header_bytes + i] = (unsigned char)i;
    }
    return 8 + header_bytes + data_bytes;
}

static void write_safetensors(const char *name, const char *header, size_t data_bytes)
{
    unsigned char bytes[8192];
    assert_true(strlen(header) + data_bytes + 8 <= sizeof bytes);
    write_bytes(name, bytes, build(bytes, strlen(header), header, data_bytes));
}

/* Opening the file fails as bad data with a text that names the file and holds every `word`. */
static void expect_refused(const void *bytes, size_t size, const char *word1, const char *word2)
{
    write_bytes("model.safetensors", bytes, size);
    fgv_weights *weights = (void *)1;
    assert_int_equal(fgv_weights_open(ctx, dir, "model", &weights), FGA_ERR_DATA);
    assert_null(weights);
    const char *text = fga_last_error(ctx);
    if (strstr(text, "model.safetensors") == NULL || strstr(text, word1) == NULL || strstr(text, word2) == NULL ||
        strchr(text, '\n') != NULL) {
        fail_msg("text \"%s\" should be one line with \"%s\" and \"%s\"", text, word1, word2);
    }
    remove_file("model.safetensors");
}

static void expect_header_refused(const char *header, size_t data_bytes, const char *word1, const char *word2)
{
    unsigned char bytes[8192];
    expect_refused(bytes, build(bytes, strlen(header), header, data_bytes), word1, word2);
}

static void good_file_opens(void **state)
{
    (void)state;
    write_safetensors("model.safetensors",
                      "{\"__metadata__\":{\"format\":\"pt\"},"
                      "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]},"
                      "\"a.weight\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[0,12]},"
                      "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[12,12]},"
                      "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[16,18]},"
                      "\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[18,26]}}  ",
                      26);
    fgv_weights *w;
    assert_int_equal(fgv_weights_open(ctx, dir, "model", &w), FGA_OK);
    fgv_tensor t;
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(1, 3), "%c.%s", 'a', "weight"), FGA_OK);
    assert_int_equal(t.dtype, FGA_F32);
    assert_int_equal(t.rank, 2);
    const unsigned char first[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    assert_memory_equal(t.data, first, 12);
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(2), "b"), FGA_OK);
    float *f32;
    assert_int_equal(fgv_tensor_to_f32(ctx, &t, &f32), FGA_OK);
    assert_true(f32[0] == fga_bits_f32(0x0d0c0000u) && f32[1] == fga_bits_f32(0x0f0e0000u));
    free(f32);
    assert_int_equal(fgv_weights_get(w, &t, 0, NULL, "scalar"), FGA_OK);
    assert_int_equal(fgv_tensor_elements(&t), 1);
    assert_true(fgv_weights_has(w, "none") && !fgv_weights_has(w, "a") && !fgv_weights_has(w, "zzz"));
    assert_int_equal(fgv_weights_parameters(w), 3 + 2 + 1);
    assert_int_equal(fgv_weights_bytes(w), 26);
    assert_ptr_equal(fgv_weights_context(w), ctx);

    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(3, 1), "a.weight"), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "a.weight has rank 2, shape [1, 3], wanted [3, 1]"));
    assert_null(t.data);
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(3), "a.weight"), FGA_ERR_DATA);
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(1), "ids"), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "I64"));
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(1), "missing.%d", 3), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "missing.3"));

    log_lines[0] = '\0';
    assert_int_equal(fgv_weights_report_unused(w), 1);
    assert_non_null(strstr(log_lines, "tensor none"));
    fgv_weights_close(&w);
    assert_null(w);
    fgv_weights_close(&w);
    fgv_weights_close(NULL);
    remove_file("model.safetensors");
}

/* A header of odd length puts the data at an odd address; the tensor must come out right all the same. */
static void odd_alignment_is_served(void **state)
{
    (void)state;
    static const char spaces[] = "       ";
    for (int pad = 0; pad < 8; pad++) {
        char header[256];
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}%s",
                 spaces + 7 - pad);
        write_safetensors("model.safetensors", header, 8);
        fgv_weights *w;
        assert_int_equal(fgv_weights_open(ctx, dir, "model", &w), FGA_OK);
        for (int again = 0; again < 2; again++) {
            fgv_tensor t;
            assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(2), "a"), FGA_OK);
            assert_int_equal((uintptr_t)t.data % 4, 0);
            assert_true(((const float *)t.data)[1] == fga_bits_f32(0x07060504u));
        }
        fgv_weights_close(&w);
        remove_file("model.safetensors");
    }
}

static void broken_lengths_are_refused(void **state)
{
    (void)state;
    unsigned char bytes[1024];
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    size_t size = build(bytes, strlen(header), header, 8);
    expect_refused(bytes, 0, "short", "");
    expect_refused(bytes, 7, "short", "");
    expect_refused(bytes, 8, "header", "");
    expect_refused(bytes, size - 9, "header", "");
    expect_refused(bytes, size - 8, "tensor a", "truncated");
    expect_refused(bytes, size - 1, "tensor a", "truncated");
    build(bytes, size - 8 + 1, header, 8);
    expect_refused(bytes, size, "header", "");
    build(bytes, 100000001u, header, 8);
    expect_refused(bytes, size, "header", "100000000");
    build(bytes, UINT64_MAX, header, 8);
    expect_refused(bytes, size, "header", "18446744073709551615");
    build(bytes, strlen(header) - 1, header, 8);
    expect_refused(bytes, size, "JSON", "");
    build(bytes, 0, header, 8);
    expect_refused(bytes, size, "JSON", "");
    bytes[size] = 0;
    build(bytes, strlen(header), header, 9);
    expect_refused(bytes, size + 1, "cover 8 of 9", "");
}

static void broken_headers_are_refused(void **state)
{
    (void)state;
    char deep[4096];
    memset(deep, '[', sizeof deep);
    deep[sizeof deep - 1] = '\0';
    expect_header_refused(deep, 0, "JSON", "");
    expect_header_refused("not json", 0, "JSON", "");
    expect_header_refused("[]", 0, "object", "");
    expect_header_refused("{} {}", 0, "after the JSON object", "");
    expect_header_refused("{\"a\":1}", 0, "tensor a", "object");
    expect_header_refused("{\"a\\nb\":1}", 0, "control", "");
    expect_header_refused("{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, "tensor a", "dtype");
    expect_header_refused("{\"a\":{\"dtype\":\"F31\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "tensor a", "F31");
    expect_header_refused("{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,4]}}", 4, "tensor a", "dtype");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor a", "shape");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "tensor a", "shape");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "tensor a", "shape");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "tensor a",
                          "shape");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1e400],\"data_offsets\":[0,4]}}", 4, "tensor a",
                          "shape");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"DATA_OFFSETS\":[0,4]}}", 4, "tensor a",
                          "data_offsets");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "tensor a",
                          "data_offsets");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "tensor a",
                          "data_offsets");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "tensor a",
                          "data_offsets");
}

static void broken_offsets_are_refused(void **state)
{
    (void)state;
#define ENTRY(name, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"
    expect_header_refused("{" ENTRY("a", "1", "4", "0") "}", 4, "tensor a", "outside");
    expect_header_refused("{" ENTRY("a", "2", "0", "8") "}", 4, "tensor a", "outside");
    expect_header_refused("{" ENTRY("a", "1", "9007199254740000", "9007199254740004") "}", 4, "tensor a", "outside");
    expect_header_refused("{" ENTRY("a", "1", "0", "18446744073709551612") "}", 4, "tensor a", "data_offsets");
    expect_header_refused("{" ENTRY("a", "2", "0", "4") "}", 4, "tensor a", "span 4 bytes");
    expect_header_refused("{" ENTRY("a", "1", "0", "3") "}", 3, "tensor a", "span 3 bytes");
    expect_header_refused("{" ENTRY("a", "4294967296,4294967296", "0", "0") "}", 0, "tensor a", "overflows");
    expect_header_refused("{" ENTRY("a", "0,4294967296,4294967296", "0", "0") "}", 0, "tensor a", "overflows");
    expect_header_refused("{" ENTRY("a", "4611686018427387904", "0", "0") "}", 0, "tensor a", "shape[0]");
    expect_header_refused("{" ENTRY("a", "1", "0", "4") "," ENTRY("b", "1", "0", "4") "}", 4, "tensor", "overlaps");
    expect_header_refused("{" ENTRY("a", "2", "0", "8") "," ENTRY("b", "1", "4", "8") "}", 8, "tensor b", "overlaps");
    expect_header_refused("{" ENTRY("a", "1", "0", "4") "," ENTRY("b", "1", "8", "12") "}", 12, "tensor b",
                          "unclaimed");
    expect_header_refused("{" ENTRY("a", "1", "4", "8") "}", 8, "tensor a", "unclaimed");
    expect_header_refused("{" ENTRY("a", "1", "0", "4") "," ENTRY("a", "1", "4", "8") "}", 8, "tensor a", "twice");
    expect_header_refused("{}", 8, "cover 0 of 8", "");
}

static void write_index(const char *map)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", map);
    write_bytes("m.safetensors.index.json", text, strlen(text));
}

static void expect_index_refused(const char *map, const char *word1, const char *word2)
{
    write_index(map);
    fgv_weights *weights;
    assert_int_equal(fgv_weights_open(ctx, dir, "m", &weights), FGA_ERR_DATA);
    assert_null(weights);
    if (strstr(fga_last_error(ctx), word1) == NULL || strstr(fga_last_error(ctx), word2) == NULL) {
        fail_msg("text \"%s\" should hold \"%s\" and \"%s\"", fga_last_error(ctx), word1, word2);
    }
}

static void shards_open_and_break(void **state)
{
    (void)state;
    write_safetensors("m-1.safetensors", "{" ENTRY("a", "1", "0", "4") "," ENTRY("x", "1", "4", "8") "}", 8);
    write_safetensors("m-2.safetensors", "{" ENTRY("b", "2", "0", "8") "}", 8);
    write_index("{\"b\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\",\"x\":\"m-1.safetensors\"}");
    fgv_weights *w;
    assert_int_equal(fgv_weights_open(ctx, dir, "m", &w), FGA_OK);
    fgv_tensor t;
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(2), "b"), FGA_OK);
    assert_true(((const float *)t.data)[0] == fga_bits_f32(0x03020100u));
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(1), "x"), FGA_OK);
    assert_true(((const float *)t.data)[0] == fga_bits_f32(0x07060504u));
    assert_int_equal(fgv_weights_parameters(w), 4);
    assert_int_equal(fgv_weights_report_unused(w), 1);
    fgv_weights_close(&w);

    expect_index_refused("{\"a\":\"m-3.safetensors\"}", "m-3.safetensors", "missing");
    expect_index_refused("{\"a\":\"m-2.safetensors\"}", "m-2.safetensors", "no tensor a");
    expect_index_refused("{\"a\":\"../m-1.safetensors\"}", "../m-1", "not a file name");
    expect_index_refused("{\"a\":\"\"}", "index.json", "not a file name");
    expect_index_refused("{\"a\":\"m-1.safetensors\",\"a\":\"m-1.safetensors\"}", "tensor a", "twice");
    expect_index_refused("{\"a\":3}", "tensor a", "shard");
    expect_index_refused("[]", "index.json", "weight_map");
    write_safetensors("m-2.safetensors", "{" ENTRY("b", "2", "0", "8") "}", 4);
    expect_index_refused("{\"b\":\"m-2.safetensors\"}", "m-2.safetensors", "truncated");

    write_index("{}");
    assert_int_equal(fgv_weights_open(ctx, dir, "m", &w), FGA_OK);
    assert_int_equal(fgv_weights_get(w, &t, FGV_SHAPE(1), "a"), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "index.json: tensor a is missing"));
    fgv_weights_close(&w);
    remove_file("m-1.safetensors");
    remove_file("m-2.safetensors");
    remove_file("m.safetensors.index.json");

    assert_int_equal(fgv_weights_open(ctx, dir, "m", &w), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "neither m.safetensors nor"));
    assert_int_equal(fgv_weights_open(ctx, "/nonexistent", "m", &w), FGA_ERR_DATA);
}

static void config_is_typed(void **state)
{
    (void)state;
    const char *text =
        "{\"n\":12,\"half\":0.5,\"yes\":true,\"s\":\"wan\",\"none\":null,\"list\":[1,2.5,3],\"big\":1e30}";
    write_bytes("config.json", text, strlen(text));
    fgv_config *c;
    assert_int_equal(fgv_config_open(ctx, path_of("config.json"), &c), FGA_OK);
    int64_t n;
    double d, list[3];
    bool b;
    const char *s;
    assert_true(fgv_config_has(c, "n") && !fgv_config_has(c, "none") && !fgv_config_has(c, "N"));
    assert_int_equal(fgv_config_int(c, "n", 1, 12, &n), FGA_OK);
    assert_int_equal(n, 12);
    assert_int_equal(fgv_config_int(c, "n", 1, 11, &n), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "config.json: key n is 12, wanted an integer in [1, 11]"));
    assert_int_equal(fgv_config_int(c, "half", 0, 9, &n), FGA_ERR_DATA);
    assert_int_equal(fgv_config_int(c, "big", 0, 9, &n), FGA_ERR_DATA);
    assert_int_equal(fgv_config_int(c, "s", 0, 9, &n), FGA_ERR_DATA);
    assert_int_equal(fgv_config_int(c, "none", 0, 9, &n), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "key none is missing"));
    assert_int_equal(fgv_config_int_or(c, "none", 0, 9, 4, &n), FGA_OK);
    assert_int_equal(n, 4);
    assert_int_equal(fgv_config_int_or(c, "half", 0, 9, 4, &n), FGA_ERR_DATA);
    assert_int_equal(fgv_config_double_or(c, "half", 7, &d), FGA_OK);
    assert_true(d == 0.5);
    assert_int_equal(fgv_config_double_or(c, "x", 7, &d), FGA_OK);
    assert_true(d == 7);
    assert_int_equal(fgv_config_double_or(c, "yes", 7, &d), FGA_ERR_DATA);
    assert_int_equal(fgv_config_bool_or(c, "yes", false, &b), FGA_OK);
    assert_true(b);
    assert_int_equal(fgv_config_bool_or(c, "n", false, &b), FGA_ERR_DATA);
    assert_int_equal(fgv_config_string_or(c, "s", "", &s), FGA_OK);
    assert_string_equal(s, "wan");
    assert_int_equal(fgv_config_string_or(c, "n", "", &s), FGA_ERR_DATA);
    assert_int_equal(fgv_config_numbers(c, "list", 3, list), FGA_OK);
    assert_true(list[0] == 1 && list[1] == 2.5 && list[2] == 3);
    assert_int_equal(fgv_config_numbers(c, "list", 2, list), FGA_ERR_DATA);
    assert_int_equal(fgv_config_expect(c, "s", "wan"), FGA_OK);
    assert_int_equal(fgv_config_expect(c, "absent", "wan"), FGA_OK);
    assert_int_equal(fgv_config_expect(c, "s", "other"), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "key s is \"wan\", wanted \"other\""));
    fgv_config_close(&c);
    assert_null(c);
    fgv_config_close(&c);

    write_bytes("config.json", "{\"n\":", 5);
    assert_int_equal(fgv_config_open(ctx, path_of("config.json"), &c), FGA_ERR_DATA);
    assert_null(c);
    remove_file("config.json");
    assert_int_equal(fgv_config_open(ctx, path_of("config.json"), &c), FGA_ERR_IO);
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file_opens),
        cmocka_unit_test(odd_alignment_is_served),
        cmocka_unit_test(broken_lengths_are_refused),
        cmocka_unit_test(broken_headers_are_refused),
        cmocka_unit_test(broken_offsets_are_refused),
        cmocka_unit_test(shards_open_and_break),
        cmocka_unit_test(config_is_typed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
