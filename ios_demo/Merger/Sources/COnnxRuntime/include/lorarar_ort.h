// ONNX Runtime for Swift: what the engine needs of its C API, in functions that Swift can call.
//
// Functions that return char * give NULL when all went well, else a sentence that lorarar_ort_free_text frees.
#ifndef LORARAR_ORT_H
#define LORARAR_ORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LORARAR_ORT_MAX_RANK 8

typedef struct lorarar_ort lorarar_ort;                  // the library and its environment
typedef struct lorarar_ort_session lorarar_ort_session;  // a loaded graph

typedef enum {
  LORARAR_ORT_FLOAT32,
  LORARAR_ORT_FLOAT16,
  LORARAR_ORT_INT32,
  LORARAR_ORT_OTHER,
} lorarar_ort_type;

typedef struct {
  lorarar_ort_type type;
  size_t rank;                            // at most LORARAR_ORT_MAX_RANK
  int64_t shape[LORARAR_ORT_MAX_RANK];    // below 0 where the graph leaves a size open
} lorarar_ort_tensor;

// `library` is a shared library's path, or NULL where ONNX Runtime is linked into the program.
char *lorarar_ort_open(const char *library, lorarar_ort **opened);
const char *lorarar_ort_version(const lorarar_ort *ort);
void lorarar_ort_close(lorarar_ort *ort);
void lorarar_ort_free_text(char *text);

// 0 threads leaves their number to the runtime. `without` names the optimizers to leave out, with ; between them.
char *lorarar_ort_load(lorarar_ort *ort, const char *path, int threads, const char *without,
                       lorarar_ort_session **loaded);
void lorarar_ort_unload(lorarar_ort_session *session);

// What the graph says of an input or an output; false when it has none.
bool lorarar_ort_signature(const lorarar_ort_session *session, bool is_input, const char *name,
                           lorarar_ort_tensor *found);

// Copies an input's values and keeps them for all later runs.
char *lorarar_ort_bind(lorarar_ort_session *session, const char *name, lorarar_ort_type type, const int64_t *shape,
                       size_t rank, const void *data, size_t bytes);
char *lorarar_ort_run(lorarar_ort_session *session);

// An output of the last run, by name; its values stay where they are until the next run.
bool lorarar_ort_output(const lorarar_ort_session *session, const char *name, lorarar_ort_tensor *found,
                        const void **data);

#endif
