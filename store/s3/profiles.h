#pragma once

#include <map>
#include <string>
#include <string_view>

namespace sqlstream {

/// The settings of one profile of ~/.aws, by lower-case name.
using Profile = std::map<std::string, std::string>;
/// Profiles by name.
using Profiles = std::map<std::string, Profile>;

/// Adds what a file of ~/.aws says to `profiles`; what is there already stays. In `config` (unlike
/// `credentials`) a profile's section is named "profile NAME", all but the default. Lines that are
/// no settings, and nested ones, are passed over. Pure.
void read_profiles(std::string_view text, bool is_config, Profiles& profiles);

}  // namespace sqlstream
