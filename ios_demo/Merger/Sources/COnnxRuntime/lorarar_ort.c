#include "lorarar_ort.h"

#include <stdlib.h>
#include <string.h>

// Memory of a few bytes, all zero. Without it nothing can go on, not even an error's sentence.
static void *zeroed(size_t bytes) {
  void *memory = calloc(1, bytes);
  if (memory == NULL) abort();
  return memory;
}

static char *copy_text(const char *text) { return strcpy(zeroed(strlen(text) + 1), text); }

void lorarar_ort_free_text(char *text) { free(text); }

#if __has_include(<onnxruntime_c_api.h>)
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>

// Of ONNX Runtime 1.17 (2024), the oldest library to run with; newer ones still offer it.
#define API_VERSION 17

struct lorarar_ort {
  const OrtApiBase *base;
  const OrtApi *api;
  OrtEnv *environment;
};

typedef struct {
  char *name;
  lorarar_ort_tensor tensor;
} signature;

typedef struct {
  signature *items;
  size_t count;
} signatures;

struct lorarar_ort_session {
  const OrtApi *api;
  OrtSession *session;
  OrtIoBinding *binding;
  OrtAllocator *allocator;
  OrtMemoryInfo *memory;
  signatures inputs, outputs;
  OrtValue **values;  // of the last run, in the order of `outputs`
  size_t value_count;
};

// The message of a status as a sentence of ours, which frees the status; NULL for success.
static char *taken(const OrtApi *api, OrtStatus *status) {
  if (status == NULL) return NULL;
  char *text = copy_text(api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  return text;
}

typedef const OrtApiBase *(*get_api_base)(void);

static get_api_base find_library(const char *library) {
#ifdef __APPLE__
  if (library == NULL) return OrtGetApiBase;
#endif
  // Never closed: its threads must not lose their code before the program ends.
  void *handle = library == NULL ? NULL : dlopen(library, RTLD_NOW | RTLD_LOCAL);
  return handle == NULL ? NULL : (get_api_base)dlsym(handle, "OrtGetApiBase");
}

char *lorarar_ort_open(const char *library, lorarar_ort **opened) {
  get_api_base get = find_library(library);
  if (get == NULL) {
    return copy_text("ONNX Runtime's library can't be loaded, or is another library; give the path of libonnxruntime");
  }
  const OrtApiBase *base = get();
  const OrtApi *api = base->GetApi(API_VERSION);
  if (api == NULL) return copy_text("this ONNX Runtime is too old; use 1.17 or later");
  OrtEnv *environment = NULL;
  char *fault = taken(api, api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "lorarar", &environment));
  if (fault != NULL) return fault;
  lorarar_ort *ort = zeroed(sizeof *ort);
  ort->base = base;
  ort->api = api;
  ort->environment = environment;
  *opened = ort;
  return NULL;
}

const char *lorarar_ort_version(const lorarar_ort *ort) { return ort->base->GetVersionString(); }

void lorarar_ort_close(lorarar_ort *ort) {
  ort->api->ReleaseEnv(ort->environment);
  free(ort);
}

static ONNXTensorElementDataType to_onnx(lorarar_ort_type type) {
  if (type == LORARAR_ORT_FLOAT32) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (type == LORARAR_ORT_FLOAT16) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

static lorarar_ort_type from_onnx(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return LORARAR_ORT_FLOAT32;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return LORARAR_ORT_FLOAT16;
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 ? LORARAR_ORT_INT32 : LORARAR_ORT_OTHER;
}

static char *describe(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, lorarar_ort_tensor *found) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  char *fault = taken(api, api->GetTensorElementType(info, &type));
  if (fault == NULL) fault = taken(api, api->GetDimensionsCount(info, &found->rank));
  if (fault != NULL) return fault;
  found->type = found->rank <= LORARAR_ORT_MAX_RANK ? from_onnx(type) : LORARAR_ORT_OTHER;
  if (found->type == LORARAR_ORT_OTHER) return NULL;
  return taken(api, api->GetDimensions(info, found->shape, found->rank));
}

typedef OrtStatus *(*count_of)(const OrtSession *, size_t *);
typedef OrtStatus *(*name_of)(const OrtSession *, size_t, OrtAllocator *, char **);
typedef OrtStatus *(*info_of)(const OrtSession *, size_t, OrtTypeInfo **);

static char *add_signature(lorarar_ort_session *session, name_of name, info_of info, size_t at, signature *item) {
  const OrtApi *api = session->api;
  char *text = NULL;
  char *fault = taken(api, name(session->session, at, session->allocator, &text));
  if (fault != NULL) return fault;
  item->name = copy_text(text);
  session->allocator->Free(session->allocator, text);
  OrtTypeInfo *type = NULL;
  fault = taken(api, info(session->session, at, &type));
  if (fault != NULL) return fault;
  const OrtTensorTypeAndShapeInfo *shape = NULL;
  fault = taken(api, api->CastTypeInfoToTensorInfo(type, &shape));
  item->tensor.type = LORARAR_ORT_OTHER;
  if (fault == NULL && shape != NULL) fault = describe(api, shape, &item->tensor);
  api->ReleaseTypeInfo(type);
  return fault;
}

static char *add_signatures(lorarar_ort_session *session, count_of count, name_of name, info_of info,
                            signatures *list) {
  size_t found = 0;
  char *fault = taken(session->api, count(session->session, &found));
  if (fault != NULL) return fault;
  list->items = zeroed((found + 1) * sizeof *list->items);
  while (list->count < found && fault == NULL) {
    const size_t at = list->count++;
    fault = add_signature(session, name, info, at, &list->items[at]);
  }
  return fault;
}

static char *read_signatures(lorarar_ort_session *session) {
  const OrtApi *api = session->api;
  char *fault = add_signatures(session, api->SessionGetInputCount, api->SessionGetInputName,
                               api->SessionGetInputTypeInfo, &session->inputs);
  if (fault == NULL) {
    fault = add_signatures(session, api->SessionGetOutputCount, api->SessionGetOutputName,
                           api->SessionGetOutputTypeInfo, &session->outputs);
  }
  return fault;
}

static char *prepare(lorarar_ort_session *session) {
  const OrtApi *api = session->api;
  char *fault = taken(api, api->GetAllocatorWithDefaultOptions(&session->allocator));
  if (fault == NULL) fault = read_signatures(session);
  if (fault == NULL) fault = taken(api, api->CreateIoBinding(session->session, &session->binding));
  if (fault == NULL) {
    fault = taken(api, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &session->memory));
  }
  // ONNX Runtime makes the outputs, whose sizes may differ from run to run.
  for (size_t i = 0; i < session->outputs.count && fault == NULL; ++i) {
    const char *name = session->outputs.items[i].name;
    fault = taken(api, api->BindOutputToDevice(session->binding, name, session->memory));
  }
  return fault;
}

static char *set_options(const OrtApi *api, OrtSessionOptions *options, int threads, const char *without) {
  // It would plan a second run's results as one block, beside the memory of the first run's, which is kept.
  char *fault = taken(api, api->DisableMemPattern(options));
  if (fault == NULL && threads > 0) fault = taken(api, api->SetIntraOpNumThreads(options, threads));
  if (fault == NULL && *without != '\0') {
    const char *key = "optimization.disable_specified_optimizers";
    fault = taken(api, api->AddSessionConfigEntry(options, key, without));
  }
  return fault;
}

char *lorarar_ort_load(lorarar_ort *ort, const char *path, int threads, const char *without,
                       lorarar_ort_session **loaded) {
  const OrtApi *api = ort->api;
  OrtSessionOptions *options = NULL;
  char *fault = taken(api, api->CreateSessionOptions(&options));
  if (fault != NULL) return fault;
  lorarar_ort_session *session = zeroed(sizeof *session);
  session->api = api;
  fault = set_options(api, options, threads, without);
  if (fault == NULL) fault = taken(api, api->CreateSession(ort->environment, path, options, &session->session));
  api->ReleaseSessionOptions(options);
  if (fault == NULL) fault = prepare(session);
  if (fault != NULL) {
    lorarar_ort_unload(session);
    return fault;
  }
  *loaded = session;
  return NULL;
}

static void release_values(lorarar_ort_session *session) {
  for (size_t i = 0; i < session->value_count; ++i) session->api->ReleaseValue(session->values[i]);
  if (session->values != NULL) session->allocator->Free(session->allocator, session->values);
  session->values = NULL;
  session->value_count = 0;
}

static void release_signatures(signatures *list) {
  for (size_t i = 0; i < list->count; ++i) free(list->items[i].name);
  free(list->items);
}

void lorarar_ort_unload(lorarar_ort_session *session) {
  const OrtApi *api = session->api;
  release_values(session);
  release_signatures(&session->inputs);
  release_signatures(&session->outputs);
  if (session->memory != NULL) api->ReleaseMemoryInfo(session->memory);
  if (session->binding != NULL) api->ReleaseIoBinding(session->binding);
  if (session->session != NULL) api->ReleaseSession(session->session);
  free(session);
}

static size_t place(const signatures *list, const char *name) {
  size_t i = 0;
  while (i < list->count && strcmp(list->items[i].name, name) != 0) ++i;
  return i;
}

bool lorarar_ort_signature(const lorarar_ort_session *session, bool is_input, const char *name,
                           lorarar_ort_tensor *found) {
  const signatures *list = is_input ? &session->inputs : &session->outputs;
  const size_t at = place(list, name);
  if (at == list->count) return false;
  *found = list->items[at].tensor;
  return true;
}

char *lorarar_ort_bind(lorarar_ort_session *session, const char *name, lorarar_ort_type type, const int64_t *shape,
                       size_t rank, const void *data, size_t bytes) {
  const OrtApi *api = session->api;
  OrtValue *value = NULL;
  char *fault =
      taken(api, api->CreateTensorAsOrtValue(session->allocator, shape, rank, to_onnx(type), &value));
  if (fault != NULL) return fault;
  void *target = NULL;
  fault = taken(api, api->GetTensorMutableData(value, &target));
  if (fault == NULL && bytes > 0) memcpy(target, data, bytes);
  if (fault == NULL) fault = taken(api, api->BindInput(session->binding, name, value));
  api->ReleaseValue(value);  // the binding shares it
  return fault;
}

char *lorarar_ort_run(lorarar_ort_session *session) {
  const OrtApi *api = session->api;
  release_values(session);
  char *fault = taken(api, api->RunWithBinding(session->session, NULL, session->binding));
  if (fault != NULL) return fault;
  return taken(api, api->GetBoundOutputValues(session->binding, session->allocator, &session->values,
                                              &session->value_count));
}

bool lorarar_ort_output(const lorarar_ort_session *session, const char *name, lorarar_ort_tensor *found,
                        const void **data) {
  const OrtApi *api = session->api;
  const size_t at = place(&session->outputs, name);
  if (at >= session->value_count) return false;
  OrtTensorTypeAndShapeInfo *info = NULL;
  char *fault = taken(api, api->GetTensorTypeAndShape(session->values[at], &info));
  if (fault == NULL) fault = describe(api, info, found);
  if (info != NULL) api->ReleaseTensorTypeAndShapeInfo(info);
  void *values = NULL;
  if (fault == NULL) fault = taken(api, api->GetTensorMutableData(session->values[at], &values));
  *data = values;
  const bool good = fault == NULL && found->type != LORARAR_ORT_OTHER;
  free(fault);
  return good;
}

#else

// Built without ONNX Runtime's header: opening says so, and nothing else is ever called.
static char *absent(void) {
  return copy_text(
      "this engine was built without ONNX Runtime; build it with the path of its headers, or use a coreml bundle");
}

char *lorarar_ort_open(const char *library, lorarar_ort **opened) { return absent(); }
const char *lorarar_ort_version(const lorarar_ort *ort) { return ""; }
void lorarar_ort_close(lorarar_ort *ort) {}

char *lorarar_ort_load(lorarar_ort *ort, const char *path, int threads, const char *without,
                       lorarar_ort_session **loaded) {
  return absent();
}

void lorarar_ort_unload(lorarar_ort_session *session) {}

bool lorarar_ort_signature(const lorarar_ort_session *session, bool is_input, const char *name,
                           lorarar_ort_tensor *found) {
  return false;
}

char *lorarar_ort_bind(lorarar_ort_session *session, const char *name, lorarar_ort_type type, const int64_t *shape,
                       size_t rank, const void *data, size_t bytes) {
  return absent();
}

char *lorarar_ort_run(lorarar_ort_session *session) { return absent(); }

bool lorarar_ort_output(const lorarar_ort_session *session, const char *name, lorarar_ort_tensor *found,
                        const void **data) {
  return false;
}

#endif
