#include "config/endpoints.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <system_error>

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

#include "base/error.h"

namespace sqlstream::config {
namespace {

namespace urls = boost::urls;

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

enum class Label { none, region, account };

// A service's own name is: prefix, a label (if it has one), suffix.
struct Service {
  std::string_view prefix;
  Label label = Label::none;
  std::string_view suffix;
  std::string_view region;  // when no label tells it
  std::optional<bool> force_path_style;
};

constexpr std::array kServices = {
    Service{"s3.", Label::region, ".amazonaws.com", "", false},
    Service{"", Label::none, "s3.amazonaws.com", "", false},
    Service{"s3.", Label::region, ".backblazeb2.com", "", true},
    Service{"", Label::account, ".eu.r2.cloudflarestorage.com", "auto", true},
    Service{"", Label::account, ".fedramp.r2.cloudflarestorage.com", "auto", true},
    Service{"", Label::account, ".r2.cloudflarestorage.com", "auto", true},
    Service{"", Label::region, ".digitaloceanspaces.com", "", true},
    Service{"", Label::none, "s3.filebase.com", "us-east-1", true},
    Service{"", Label::region, ".your-objectstorage.com", "", true},
    Service{"", Label::region, ".linodeobjects.com", "", true},
    Service{"s3.", Label::region, ".scw.cloud", "", true},
    Service{"", Label::none, "fly.storage.tigris.dev", "auto", false},
    Service{"", Label::none, "t3.storage.dev", "auto", false},
    Service{"s3.", Label::region, ".wasabisys.com", "", true},
    Service{"", Label::none, "s3.wasabisys.com", "us-east-1", true},
};

// The part of `text` after its last dot, with the text up to and including that dot left behind.
std::string_view take_last_label(std::string_view& text) {
  const auto dot = text.rfind('.');
  const auto label = dot == std::string_view::npos ? text : text.substr(dot + 1);
  text.remove_suffix(label.size());
  return label;
}

std::optional<ServiceHost> match(const Service& service, std::string_view host) {
  if (!host.ends_with(service.suffix)) return std::nullopt;
  std::string_view rest = host.substr(0, host.size() - service.suffix.size());
  std::string_view label;
  if (service.label != Label::none) {
    label = take_last_label(rest);
    if (label.empty()) return std::nullopt;
  }
  if (!rest.ends_with(service.prefix)) return std::nullopt;
  rest.remove_suffix(service.prefix.size());
  if (!rest.empty() && !rest.ends_with('.')) return std::nullopt;

  ServiceHost result;
  result.endpoint = host.substr(rest.size());
  if (!rest.empty()) rest.remove_suffix(1);
  result.bucket = rest;
  result.region = service.label == Label::region ? label : service.region;
  result.force_path_style = service.force_path_style;
  return result;
}

}  // namespace

std::optional<ServiceHost> recognise_service(std::string_view host) {
  for (const Service& service : kServices) {
    if (auto found = match(service, host)) return found;
  }
  return std::nullopt;
}

bool is_local_host(std::string_view host) {
  return host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.") ||
         host == "::1";
}

std::string normalise_endpoint(std::string_view endpoint) {
  // Never repeats the text: someone may have put a password into it.
  const std::string wanted = "; write it as https://host or http://host:port";
  std::string text(endpoint);
  if (text.find("://") == std::string::npos) text = "none://" + text;
  const auto parsed = urls::parse_uri(text);
  if (!parsed) throw Error("the endpoint is not a valid address" + wanted);
  const urls::url_view& url = *parsed;
  if (url.has_userinfo()) {
    throw Error(
        "the endpoint holds a user name or password: take it out and set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment instead");
  }
  if (url.encoded_host_address().empty()) throw Error("the endpoint names no host" + wanted);
  if (url.has_query() || url.has_fragment() ||
      !(url.encoded_path().empty() || url.encoded_path() == "/")) {
    throw Error("the endpoint must be only an address, without a path or query" + wanted);
  }
  if (url.has_port() && !is_port(std::string_view(url.port()))) {
    throw Error("the endpoint's port must be a number from 1 to 65535" + wanted);
  }

  std::string scheme = lower(url.scheme());
  if (scheme == "none") scheme = is_local_host(url.host_address()) ? "http" : "https";
  if (scheme != "http" && scheme != "https") {
    throw Error("the endpoint's scheme must be http or https, not \"" + scheme + '"');
  }
  std::string result = scheme + "://" + lower(url.encoded_host());
  if (url.has_port()) result += ':' + std::string(url.port());
  return result;
}

bool is_port(std::string_view text) {
  std::uint16_t number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc() && end == text.data() + text.size() && number != 0;
}

std::string endpoint_host(std::string_view endpoint) {
  const auto parsed = urls::parse_uri(endpoint);
  if (!parsed) return {};
  return lower(parsed->host_address());
}

}  // namespace sqlstream::config
