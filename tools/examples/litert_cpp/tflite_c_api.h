// What litert_generate.cc calls of TensorFlow Lite's C API, by its documentation.
//
// The API is one of opaque pointers and keeps its ABI, so that any library that has it
// will do. With a package that ships headers, include <tensorflow/lite/c/c_api.h> in
// place of this file.
#ifndef KERAS_GPT_TFLITE_C_API_H_
#define KERAS_GPT_TFLITE_C_API_H_

#include <cstddef>
#include <cstdint>

extern "C" {

struct TfLiteModel;
struct TfLiteInterpreterOptions;
struct TfLiteInterpreter;
struct TfLiteSignatureRunner;
struct TfLiteTensor;

enum TfLiteStatus { kTfLiteOk = 0 };
enum TfLiteType { kTfLiteNoType = 0, kTfLiteFloat32 = 1, kTfLiteInt32 = 2 };

TfLiteModel* TfLiteModelCreateFromFile(const char* path);
void TfLiteModelDelete(TfLiteModel* model);

TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate();
void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions* options);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions* options,
                                           int32_t num_threads);

TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel* model,
                                           const TfLiteInterpreterOptions* options);
void TfLiteInterpreterDelete(TfLiteInterpreter* interpreter);

// Null if there is no such signature.
TfLiteSignatureRunner* TfLiteInterpreterGetSignatureRunner(
    const TfLiteInterpreter* interpreter, const char* signature_key);
void TfLiteSignatureRunnerDelete(TfLiteSignatureRunner* signature);
size_t TfLiteSignatureRunnerGetInputCount(const TfLiteSignatureRunner* signature);
const char* TfLiteSignatureRunnerGetInputName(const TfLiteSignatureRunner* signature,
                                              int32_t index);
TfLiteTensor* TfLiteSignatureRunnerGetInputTensor(TfLiteSignatureRunner* signature,
                                                  const char* name);
const TfLiteTensor* TfLiteSignatureRunnerGetOutputTensor(
    const TfLiteSignatureRunner* signature, const char* name);
TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner* signature);
TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner* signature);

TfLiteType TfLiteTensorType(const TfLiteTensor* tensor);
size_t TfLiteTensorByteSize(const TfLiteTensor* tensor);
void* TfLiteTensorData(const TfLiteTensor* tensor);

}  // extern "C"

#endif  // KERAS_GPT_TFLITE_C_API_H_
