#include "video/sentencepiece_shim.h"

#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include <sentencepiece_processor.h>

struct fgv_sentencepiece {
    sentencepiece::SentencePieceProcessor processor;
};

namespace
{
int fail(const char *text, char *error, unsigned long bytes)
{
    std::snprintf(error, bytes, "%s", text);
    return -1;
}
} // namespace

int fgv_sentencepiece_open(const char *path, fgv_sentencepiece **model, char *error, unsigned long bytes)
{
    *model = nullptr;
    fgv_sentencepiece *made = nullptr;
    try {
        made = new fgv_sentencepiece;
        const sentencepiece::util::Status status = made->processor.Load(path);
        if (!status.ok()) {
            fail(status.ToString().c_str(), error, bytes);
            delete made;
            return -1;
        }
        *model = made;
        return 0;
    } catch (const std::exception &exception) {
        delete made;
        return fail(exception.what(), error, bytes);
    } catch (...) {
        delete made;
        return fail("unknown failure", error, bytes);
    }
}

int fgv_sentencepiece_encode(const fgv_sentencepiece *model, const char *text, int *ids, int capacity, int *count,
                             char *error, unsigned long bytes)
{
    *count = 0;
    try {
        std::vector<int> all;
        const sentencepiece::util::Status status = model->processor.Encode(text, &all);
        if (!status.ok()) {
            return fail(status.ToString().c_str(), error, bytes);
        }
        *count = static_cast<int>(all.size());
        for (int i = 0; i < capacity && i < *count; i++) {
            ids[i] = all[static_cast<size_t>(i)];
        }
        return 0;
    } catch (const std::exception &exception) {
        return fail(exception.what(), error, bytes);
    } catch (...) {
        return fail("unknown failure", error, bytes);
    }
}

int fgv_sentencepiece_eos(const fgv_sentencepiece *model)
{
    try {
        return model->processor.eos_id();
    } catch (...) {
        return -1;
    }
}

void fgv_sentencepiece_close(fgv_sentencepiece *model)
{
    delete model;
}
