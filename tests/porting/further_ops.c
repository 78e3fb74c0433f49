/* Ops that hand every kind of argument over: caches, page tables, several results, flags. The test
 * puts this behind the sample library, whose helpers it uses. */

static int64_t element(const glm5_tensor *tensor, int64_t place) {
    return ((const int32_t *)tensor->data)[place];
}

int32_t glm5_embedding(glm5_stream *stream, const glm5_tensor *ids, const glm5_tensor *table,
                       glm5_tensor *out) {
    (void)stream;
    for (int64_t row = 0; row < ids->shape[0]; row++) {
        int64_t id = element(ids, row * ids->strides[0]);
        for (int64_t i = 0; i < table->shape[1]; i++)
            store(out, row * out->strides[0] + i, load(table, id * table->strides[0] + i));
    }
    return 0;
}

int32_t glm5_cache_write(glm5_stream *stream, const glm5_cache *cache, const glm5_tensor *rows,
                         const glm5_tensor *slots) {
    (void)stream;
    if (cache->pages * cache->page_size != cache->rows.shape[0]) return fail("pages do not fit");
    glm5_tensor target = cache->rows;
    for (int64_t row = 0; row < rows->shape[0]; row++) {
        int64_t slot = element(slots, row * slots->strides[0]);
        for (int64_t i = 0; i < rows->shape[1]; i++)
            store(&target, slot * target.strides[0] + i, load(rows, row * rows->strides[0] + i));
    }
    return 0;
}

int32_t glm5_cache_read(glm5_stream *stream, const glm5_cache *cache, const glm5_tensor *slots,
                        glm5_tensor *out) {
    (void)stream;
    for (int64_t row = 0; row < slots->shape[0]; row++) {
        int64_t slot = element(slots, row * slots->strides[0]);
        for (int64_t i = 0; i < out->shape[1]; i++)
            store(out, row * out->strides[0] + i,
                  load(&cache->rows, slot * cache->rows.strides[0] + i));
    }
    return 0;
}

int32_t glm5_index_scores(glm5_stream *stream, const glm5_tensor *q, const glm5_tensor *w,
                          const glm5_cache *keys, const glm5_context *context, double scale,
                          glm5_tensor *out) {
    (void)stream;
    const glm5_tensor *table = &context->page_table;
    for (int64_t token = 0; token < q->shape[0]; token++) {
        int64_t row = element(&context->sequence, token * context->sequence.strides[0]);
        int64_t length = element(&context->lengths, token * context->lengths.strides[0]);
        for (int64_t i = 0; i < context->max_length; i++) {
            double sum = 0.0;
            if (i >= length) {
                store(out, token * out->strides[0] + i, -INFINITY);
                continue;
            }
            int64_t page = element(table, row * table->strides[0] + i / keys->page_size);
            int64_t slot = page * keys->page_size + i % keys->page_size;
            for (int64_t head = 0; head < q->shape[1]; head++) {
                double dot = 0.0;
                for (int64_t d = 0; d < q->shape[2]; d++)
                    dot += (double)load(q, token * q->strides[0] + head * q->strides[1] + d) *
                           (double)load(&keys->rows, slot * keys->rows.strides[0] + d);
                if (!(dot <= 0.0)) /* NaN stays */
                    sum += dot * load(w, token * w->strides[0] + head) * scale;
            }
            store(out, token * out->strides[0] + i, (float)sum + 0.0f);
        }
    }
    return 0;
}

int32_t glm5_moe_dispatch(glm5_stream *stream, const glm5_tensor *x, const glm5_tensor *ids,
                          int64_t experts, glm5_tensor *out0, glm5_tensor *out1,
                          glm5_tensor *out2) {
    (void)stream;
    int32_t *offsets = out1->data, *slots = out2->data;
    int64_t k = ids->shape[1], filled = 0;
    for (int64_t expert = 0; expert < experts; expert++) {
        offsets[expert] = (int32_t)filled;
        for (int64_t slot = 0; slot < ids->shape[0] * k; slot++) {
            if (element(ids, slot / k * ids->strides[0] + slot % k) != expert) continue;
            for (int64_t i = 0; i < x->shape[1]; i++)
                store(out0, filled * out0->strides[0] + i, load(x, slot / k * x->strides[0] + i));
            slots[filled++] = (int32_t)slot;
        }
    }
    offsets[experts] = (int32_t)filled;
    return 0;
}
