// Continues a prompt by a .tflite file of keras_gpt's export_tflite, without Python.
//
//   litert_generate MODEL.tflite [SETTING=NUMBER ...] ID ...
//
// takes the ids of the prompt's tokens and prints those of its continuation. Settings
// are those of GPTCausalLM.generate, and stop=ID, a token that ends the text:
//
//   litert_generate model.tflite max_new_tokens=20 temperature=0.8 seed=7 464 2677
//
// Built against any library with TensorFlow Lite's C API, such as the one in pip's
// litert-lm-api (see CMakeLists.txt):
//
//   pip install litert-lm-api
//   cmake -S . -B build -DTFLITE_DIR=SITE_PACKAGES/litert_lm
//   cmake --build build

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tflite_c_api.h"

namespace {

// Settings that are off at another number than 0.
const std::map<std::string, std::string> kDefaults = {
    {"max_new_tokens", "64"}, {"repetition_penalty", "1"}, {"temperature", "1"},
    {"top_p", "1"},           {"typical_p", "1"}};
// By the codes of the output finish_reason.
const std::vector<std::string> kFinishReasons = {
    "unfinished", "stop", "length", "prompt_too_long", "invalid_input",
    "invalid_logits"};
constexpr int32_t kLength = 2;  // later ones are errors

struct Request {
  std::vector<int32_t> prompt;
  std::vector<int32_t> stops;
  std::map<std::string, std::string> settings;
};

template <typename Number>
Number Parse(const std::string& text) {
  std::istringstream stream(text);
  Number number;
  if (!(stream >> number) || stream.peek() != EOF) {
    throw std::invalid_argument("numbers must be whole, or real where a setting is, "
                                "got '" + text + "'.");
  }
  return number;
}

Request ParseArguments(const std::vector<std::string>& arguments) {
  Request request;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    if (equals == std::string::npos) {
      request.prompt.push_back(Parse<int32_t>(argument));
    } else if (argument.compare(0, equals, "stop") == 0) {
      request.stops.push_back(Parse<int32_t>(argument.substr(equals + 1)));
    } else {
      request.settings[argument.substr(0, equals)] = argument.substr(equals + 1);
    }
  }
  return request;
}

// A view of a tensor's numbers.
template <typename Number>
struct Values {
  explicit Values(const TfLiteTensor* tensor)
      : data(static_cast<Number*>(TfLiteTensorData(tensor))),
        size(TfLiteTensorByteSize(tensor) / sizeof(Number)) {}
  Number* begin() const { return data; }
  Number* end() const { return data + size; }

  Number* data;
  size_t size;
};

void Fill(const Values<int32_t>& tensor, const std::vector<int32_t>& ids, int32_t rest,
          const std::string& name) {
  if (ids.size() > tensor.size) {
    throw std::invalid_argument(name + " must be at most " +
                                std::to_string(tensor.size) + " ids, got " +
                                std::to_string(ids.size()) + ".");
  }
  std::fill(std::copy(ids.begin(), ids.end(), tensor.begin()), tensor.end(), rest);
}

// Writes one input of `generate`: the ids, the seed or a setting.
void SetInput(TfLiteTensor* tensor, const std::string& name, Request& request) {
  if (name == "tokens") {
    return Fill(Values<int32_t>(tensor), request.prompt, 0, "the prompt");
  }
  if (name == "stop_tokens") {
    return Fill(Values<int32_t>(tensor), request.stops, -1, "stop");
  }
  if (name == "num_tokens") {
    *Values<int32_t>(tensor).data = static_cast<int32_t>(request.prompt.size());
    return;
  }
  const auto given = request.settings.extract(name);
  const auto by_default = kDefaults.find(name);
  const std::string text = given                            ? given.mapped()
                           : by_default != kDefaults.end() ? by_default->second
                                                            : "0";
  if (name == "seed") {
    const int64_t seed = Parse<int64_t>(text);
    Values<int32_t> halves(tensor);  // the low one first
    halves.data[0] = static_cast<int32_t>(seed & 0xffffffff);
    halves.data[1] = static_cast<int32_t>(seed >> 32);
    return;
  }
  if (TfLiteTensorType(tensor) == kTfLiteFloat32) {
    *Values<float>(tensor).data = Parse<float>(text);
  } else {
    *Values<int32_t>(tensor).data = Parse<int32_t>(text);
  }
}

// What C gives, released by its own function; null is an error.
template <typename T>
std::unique_ptr<T, void (*)(T*)> Owned(T* pointer, void (*release)(T*),
                                       const std::string& message) {
  if (pointer == nullptr) throw std::invalid_argument(message);
  return {pointer, release};
}

void Check(TfLiteStatus status, const std::string& what) {
  if (status != kTfLiteOk) throw std::runtime_error(what + " failed.");
}

// Returns the code of the reason why the text ended.
int32_t Run(const std::string& path, Request request) {
  const auto model =
      Owned(TfLiteModelCreateFromFile(path.c_str()), TfLiteModelDelete,
            "MODEL must be a whole TFLite file, got " + path + ".");
  const auto options = Owned(TfLiteInterpreterOptionsCreate(),
                             TfLiteInterpreterOptionsDelete, "no memory is left.");
  TfLiteInterpreterOptionsSetNumThreads(options.get(), 2);
  const auto interpreter =
      Owned(TfLiteInterpreterCreate(model.get(), options.get()),
            TfLiteInterpreterDelete, "MODEL must have known ops alone: " + path + ".");
  const auto generate =
      Owned(TfLiteInterpreterGetSignatureRunner(interpreter.get(), "generate"),
            TfLiteSignatureRunnerDelete,
            "MODEL must have the signature generate, but " + path + " has none.");
  Check(TfLiteSignatureRunnerAllocateTensors(generate.get()), "making the tensors");
  const size_t count = TfLiteSignatureRunnerGetInputCount(generate.get());
  for (size_t index = 0; index < count; ++index) {
    const char* name = TfLiteSignatureRunnerGetInputName(generate.get(), index);
    SetInput(TfLiteSignatureRunnerGetInputTensor(generate.get(), name), name, request);
  }
  if (!request.settings.empty()) {
    throw std::invalid_argument("settings must be inputs of the signature, got " +
                                request.settings.begin()->first + ".");
  }
  Check(TfLiteSignatureRunnerInvoke(generate.get()), "generate");
  const auto output = [&](const char* name) {
    return Values<int32_t>(TfLiteSignatureRunnerGetOutputTensor(generate.get(), name));
  };
  const Values<int32_t> tokens = output("new_tokens");
  const int32_t num_tokens = *output("num_new_tokens").data;
  for (int32_t index = 0; index < num_tokens; ++index) {
    std::cout << (index ? " " : "") << tokens.data[index];
  }
  std::cout << "\n";
  const int32_t reason = *output("finish_reason").data;
  std::cerr << kFinishReasons.at(reason) << "\n";
  return reason;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 2) {
    std::cerr << "usage: litert_generate MODEL.tflite [SETTING=NUMBER ...] ID ...\n";
    return 1;
  }
  try {
    const Request request =
        ParseArguments({arguments.begin() + 1, arguments.end()});
    return Run(arguments[0], request) <= kLength ? 0 : 3;
  } catch (const std::exception& error) {
    std::cerr << "litert_generate: " << error.what() << "\n";
    return 2;
  }
}
