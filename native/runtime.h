// CPU features and the choice of instruction set.
#pragma once
#include <string>
#include <vector>

#include "isa.h"

namespace nift {

const char* isa_name(Isa isa);
std::vector<Isa> available_isas();  // slowest first
void set_isa(Isa isa);              // throws std::invalid_argument when this CPU lacks it
std::vector<std::string> cpu_features();

}  // namespace nift
