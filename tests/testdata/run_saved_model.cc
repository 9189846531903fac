// Runs a signature of an exported model as a C++ server does: no Python, no XLA.
//
// Usage: run_saved_model FOLDER SIGNATURE OUTPUT < lines
//
// Each line of standard input is a row of the input `text`; inputs that the
// SignatureDef has defaults for take them, spread over the rows. Prints a line for each
// row of the string output OUTPUT, in which newlines and backslashes are escaped.

#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/compiler/jit/flags.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tensorflow/core/public/session.h"

namespace {

// Repeats a default of one row.
tensorflow::Tensor Spread(const tensorflow::Tensor& one, int rows) {
  tensorflow::Tensor all;
  std::vector<tensorflow::Tensor> copies(rows, one);
  TF_CHECK_OK(tensorflow::tensor::Concat(copies, &all));
  return all;
}

std::string Escaped(const std::string& text) {
  std::string line;
  for (char c : text) {
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\\') {
      line += "\\\\";
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: run_saved_model FOLDER SIGNATURE OUTPUT\n";
    return 1;
  }
  tensorflow::DisableXlaCompilation();
  tensorflow::SavedModelBundle bundle;
  auto status = tensorflow::LoadSavedModel(
      tensorflow::SessionOptions(), tensorflow::RunOptions(), argv[1],
      {"serve"}, &bundle);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 2;
  }
  const auto& signature = bundle.GetSignatures().at(argv[2]);

  std::vector<std::string> lines;
  for (std::string line; std::getline(std::cin, line);) lines.push_back(line);
  const int rows = static_cast<int>(lines.size());
  tensorflow::Tensor text(tensorflow::DT_STRING, {rows});
  for (int row = 0; row < rows; ++row) {
    text.vec<tensorflow::tstring>()(row) = lines[row];
  }
  std::vector<std::pair<std::string, tensorflow::Tensor>> inputs;
  inputs.emplace_back(signature.inputs().at("text").name(), text);
  for (const auto& [name, proto] : signature.defaults()) {
    tensorflow::Tensor one;
    if (!one.FromProto(proto)) return 3;
    inputs.emplace_back(signature.inputs().at(name).name(), Spread(one, rows));
  }

  std::vector<tensorflow::Tensor> outputs;
  status = bundle.GetSession()->Run(
      inputs, {signature.outputs().at(argv[3]).name()}, {}, &outputs);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 4;
  }
  for (int row = 0; row < rows; ++row) {
    std::cout << Escaped(outputs[0].vec<tensorflow::tstring>()(row)) << "\n";
  }
  return 0;
}
