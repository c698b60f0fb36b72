/* Prompt cleaning and token ids against what the pipeline makes of the same prompts (tests/golden/tokenizer). */
#include "video/json.h"
#include "video/prompt_clean.h"
#include "video/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CAPACITY 512

static fga_context *ctx;

static int setup(void **state)
{
    (void)state;
    return fga_context_create(NULL, &ctx) == FGA_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fga_context_destroy(&ctx);
    return 0;
}

/* The goldens, an array, as a member of an object. */
static cJSON *read_goldens(void)
{
    FILE *file = fopen("tests/golden/tokenizer/prompts.json", "rb");
    assert_non_null(file);
    size_t capacity = 1 << 20;
    char *text = malloc(capacity);
    assert_non_null(text);
    size_t bytes = fread(text, 1, capacity, file);
    assert_in_range(bytes, 1, capacity - 1);
    fclose(file);
    cJSON *goldens = cJSON_ParseWithLength(text, bytes);
    assert_true(cJSON_IsArray(goldens));
    free(text);
    return goldens;
}

static const char *string_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    assert_non_null(text);
    return text;
}

static void prompts_are_cleaned(void **state)
{
    (void)state;
    cJSON *goldens = read_goldens();
    const cJSON *item;
    int checked = 0;
    cJSON_ArrayForEach(item, goldens)
    {
        char *clean;
        assert_int_equal(fgv_prompt_clean(ctx, string_of(item, "prompt"), &clean), FGA_OK);
        assert_string_equal(clean, string_of(item, "clean_ftfy"));
        free(clean);
        checked++;
    }
    assert_true(checked >= 60);
    cJSON_Delete(goldens);
}

static void ids_match(void **state)
{
    (void)state;
    fgv_tokenizer *tokenizer;
    assert_int_equal(fgv_tokenizer_open(ctx, "tests/golden/tiny/tokenizer", &tokenizer), FGA_OK);
    cJSON *goldens = read_goldens();
    const cJSON *item;
    int longest = 0;
    cJSON_ArrayForEach(item, goldens)
    {
        const cJSON *want = cJSON_GetObjectItemCaseSensitive(item, "ids_sentencepiece");
        want = want != NULL ? want : cJSON_GetObjectItemCaseSensitive(item, "ids_ftfy");
        int32_t ids[CAPACITY + 1];
        ids[CAPACITY] = -7;
        int count;
        assert_int_equal(fgv_tokenizer_encode(tokenizer, string_of(item, "prompt"), ids, CAPACITY, &count), FGA_OK);
        assert_int_equal(ids[CAPACITY], -7);
        assert_int_equal(count, cJSON_GetArraySize(want));
        for (int i = 0; i < count; i++) {
            assert_int_equal(ids[i], (int)cJSON_GetArrayItem(want, i)->valuedouble);
        }
        longest = count > longest ? count : longest;
    }
    assert_int_equal(longest, CAPACITY);
    int32_t few[3];
    int count;
    assert_int_equal(fgv_tokenizer_encode(tokenizer, "a large red ball", few, 3, &count), FGA_OK);
    assert_int_equal(count, 3);
    assert_int_equal(few[2], 1);
    assert_int_equal(fgv_tokenizer_encode(tokenizer, "a large red ball", few, 1, &count), FGA_OK);
    assert_true(count == 1 && few[0] == 1);
    assert_int_equal(fgv_tokenizer_encode(tokenizer, "a", few, 0, &count), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_tokenizer_encode(tokenizer, "a\xff", few, 3, &count), FGA_ERR_DATA);
    cJSON_Delete(goldens);
    fgv_tokenizer_close(&tokenizer);
    assert_null(tokenizer);
    fgv_tokenizer_close(&tokenizer);
}

static void expect_clean(const char *prompt, const char *want)
{
    char *clean;
    assert_int_equal(fgv_prompt_clean(ctx, prompt, &clean), FGA_OK);
    assert_string_equal(clean, want);
    free(clean);
}

static void html_is_unescaped(void **state)
{
    (void)state;
    expect_clean("&amp &ampx &ltb&gt;", "& &x <b>");
    expect_clean("&notit; &notin; &nonsense; &;", "\xc2\xacit; \xe2\x88\x89 &nonsense; &;");
    expect_clean("&NotEqualTilde; &CounterClockwiseContourIntegral;", "\xe2\x89\x82\xcc\xb8 \xe2\x88\xb3");
    expect_clean("&#65;&#x42&#67 &#; &#x; &#xg;", "ABC &#; &#x; &#xg;");
    expect_clean("<&#0; &#xD800; &#x110000; &#99999999999999999999;",
                 "<\xef\xbf\xbd \xef\xbf\xbd \xef\xbf\xbd \xef\xbf\xbd");
    expect_clean("<a&#x80;b&#1;c&#x1f;d&#xFFFE;e&#13;f", "<a\xe2\x82\xac"
                                                         "bcde f");
    expect_clean("&amp;amp;lt;", "<");      /* the repairs unescape as often as it takes */
    expect_clean("<&amp;amp;lt;", "<&lt;"); /* and leave HTML alone, so twice is all */
    expect_clean("&", "&");
    expect_clean("&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;",
                 "&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;");
}

static void text_is_repaired(void **state)
{
    (void)state;
    expect_clean("\xc2\xab"
                 "CAF\xc3\x89\xc2\xbb",
                 "\xc2\xab"
                 "CAF\xc3\x89\xc2\xbb"); /* no mojibake though it could be */
    expect_clean("\xc3\xa4\xc2\xb8\xc2\xad\xc3\xa6\xe2\x80\x93\xe2\x80\xa1", "\xe4\xb8\xad\xe6\x96\x87");
    expect_clean("\xef\xbd\xb6\xef\xbe\x9e", "\xe3\x82\xac");             /* half-width ka and voicing mark compose */
    expect_clean("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"); /* Hangul jamo */
    expect_clean("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");               /* marks in canonical order */
    expect_clean("\xe2\x84\xab \xe0\xa5\x98", "\xc3\x85 \xe0\xa4\x95\xe0\xa4\xbc"); /* singleton, exclusion */
    expect_clean("a\x1b[1;31mb\x1b[0mc\x1b[d", "abc");
}

static void bad_utf8_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80",         "a\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x8f\xbf\xbf",
        "\xe2\x28\xa1", "\xff",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *clean = (char *)1;
        assert_int_equal(fgv_prompt_clean(ctx, bad[i], &clean), FGA_ERR_DATA);
        assert_null(clean);
        assert_non_null(strstr(fga_last_error(ctx), "not UTF-8"));
    }
}

static void broken_models_are_refused(void **state)
{
    (void)state;
    fgv_tokenizer *tokenizer;
    assert_int_equal(fgv_tokenizer_open(ctx, "/nonexistent", &tokenizer), FGA_ERR_DATA);
    assert_null(tokenizer);
    assert_non_null(strstr(fga_last_error(ctx), "/nonexistent/spiece.model"));

    char dir[] = "/tmp/fgattn-tokenizer-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/spiece.model", dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("this is no protocol buffer", file);
    fclose(file);
    assert_int_equal(fgv_tokenizer_open(ctx, dir, &tokenizer), FGA_ERR_DATA);
    assert_null(tokenizer);
    assert_non_null(strstr(fga_last_error(ctx), "spiece.model is no SentencePiece model"));
    assert_null(strchr(fga_last_error(ctx), '\n'));
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_cleaned), cmocka_unit_test(ids_match),
        cmocka_unit_test(html_is_unescaped),   cmocka_unit_test(text_is_repaired),
        cmocka_unit_test(bad_utf8_is_refused), cmocka_unit_test(broken_models_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
