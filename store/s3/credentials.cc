#include "store/s3/credentials.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "store/s3/crypto.h"
#include "store/s3/profiles.h"
#include "store/s3/xml.h"
#include "store/store.h"

namespace sqlstream {
namespace {

using Kind = StoreError::Kind;
using namespace std::chrono_literals;

// New ones are fetched this long before the old ones expire, while the old ones still work.
constexpr auto kRefreshAhead = 5min;
// … and where there are no others yet, again after so long: no request waits for that each time.
constexpr auto kSearchPause = 30s;
constexpr int kDeepestRoles = 5;

/// A small local file, whole; nothing when it cannot be read.
std::optional<std::string> read_file(const std::string& path) {
  const std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' '))
    text.pop_back();
  return text;
}

std::string value(const Profile& profile, const std::string& name) {
  const auto found = profile.find(name);
  return found == profile.end() ? std::string() : found->second;
}

/// Not with its value: a password may stand in that.
[[noreturn]] void throw_no_url(const std::string& variable) {
  throw StoreError(Kind::rejected, variable + " is not a URL (http[s]://host[:port][/path])");
}

/// A metadata service is on this machine or in its container's network.
constexpr std::chrono::milliseconds kMetadataTimeout{1000};

}  // namespace

CredentialChain::CredentialChain(CredentialSettings settings, Environment env,
                                 const asio::any_io_executor& executor,
                                 std::shared_ptr<http::Client> client)
    : settings_(std::move(settings)),
      env_(std::move(env)),
      client_(std::move(client)),
      direct_(executor, http::ClientSettings()),
      one_(executor, 1) {}

asio::awaitable<Credentials> CredentialChain::get() {
  const Semaphore::Permit one = co_await one_.acquire();
  if (found_ && (!found_->expires || now() < *found_->expires - kRefreshAhead)) co_return *found_;
  const auto time = std::chrono::steady_clock::now();
  if (found_ && now() < *found_->expires && time < search_again_) co_return *found_;
  const sigv4::Keys before = found_ ? found_->keys : sigv4::Keys();
  std::exception_ptr failure;
  try {
    found_ = co_await find();
  } catch (const StoreError&) {
    // The old ones do until they really expire.
    if (!found_ || now() >= *found_->expires) failure = std::current_exception();
  }
  if (found_ && found_->keys == before) search_again_ = time + kSearchPause;
  if (failure) std::rethrow_exception(failure);
  co_return *found_;
}

asio::awaitable<bool> CredentialChain::look_again(sigv4::Keys refused) {
  const Semaphore::Permit one = co_await one_.acquire();
  if (!found_ || found_->keys != refused) co_return true;
  found_ = co_await find();
  co_return found_->keys != refused;
}

asio::awaitable<Credentials> CredentialChain::find() {
  Credentials given;
  given.keys = settings_.keys;
  if (given.keys.complete()) co_return given;
  if (!settings_.keys.access_key_id.empty() || !settings_.keys.secret_access_key.empty())
    throw StoreError(Kind::denied,
                     settings_.keys.access_key_id.empty()
                         ? "the replica's settings have a secret-access-key and no access-key-id; "
                           "set both there, or none"
                         : "the replica's settings have an access-key-id and no secret-access-key; "
                           "set both there, or none");
  if (!settings_.profile.empty()) {
    std::optional<Credentials> found = co_await from_profile(settings_.profile, true);
    co_return std::move(*found);
  }
  sigv4::Keys keys{
      variable("LITESTREAM_ACCESS_KEY_ID"), variable("LITESTREAM_SECRET_ACCESS_KEY"), {}};
  if (keys.complete()) co_return Credentials{keys, {}};
  keys = {variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"),
          variable("AWS_SESSION_TOKEN")};
  if (keys.complete()) co_return Credentials{keys, {}};

  const std::string token_file = variable("AWS_WEB_IDENTITY_TOKEN_FILE");
  const std::string role = variable("AWS_ROLE_ARN");
  if (!token_file.empty() && !role.empty()) {
    std::string session = variable("AWS_ROLE_SESSION_NAME");
    given = co_await from_web_identity(token_file, role, std::move(session));
    co_return given;
  }

  std::string profile = variable("AWS_PROFILE");
  if (profile.empty()) profile = variable("AWS_DEFAULT_PROFILE");
  const bool named = !profile.empty();
  if (!named) profile = "default";
  std::optional<Credentials> found = co_await from_profile(profile, named);
  if (found) co_return std::move(*found);

  std::string container = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
  if (!container.empty()) container.insert(0, "http://169.254.170.2");
  if (container.empty()) container = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
  if (!container.empty()) {
    given = co_await from_container(container);
    co_return given;
  }

  const bool ask_instance = http::to_lower(variable("AWS_EC2_METADATA_DISABLED")) != "true";
  if (ask_instance) {
    found = co_await from_instance();
    if (found) co_return std::move(*found);
  }
  if (keys.access_key_id.empty() != keys.secret_access_key.empty())
    throw StoreError(Kind::denied,
                     "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set; set both");
  throw StoreError(Kind::denied,
                   std::string("no credentials: there are none in the replica's settings, in "
                               "LITESTREAM_ACCESS_KEY_ID/LITESTREAM_SECRET_ACCESS_KEY, in "
                               "AWS_ACCESS_KEY_ID/AWS_SECRET_ACCESS_KEY, in the \"") +
                       profile + "\" profile of ~/.aws, and " +
                       (ask_instance ? "no instance metadata service answers"
                                     : "the instance metadata service is switched off") +
                       "; set one of them");
}

asio::awaitable<std::optional<Credentials>> CredentialChain::from_profile(std::string name,
                                                                          bool required) {
  const std::string home = variable("HOME") + "/.aws/";
  std::string credentials_file = variable("AWS_SHARED_CREDENTIALS_FILE");
  if (credentials_file.empty()) credentials_file = home + "credentials";
  std::string config_file = variable("AWS_CONFIG_FILE");
  if (config_file.empty()) config_file = home + "config";
  Profiles profiles;
  if (const auto text = read_file(credentials_file)) read_profiles(*text, false, profiles);
  if (const auto text = read_file(config_file)) read_profiles(*text, true, profiles);

  // Roles are assumed with another profile's credentials, which may be a role's in turn.
  std::vector<Profile> roles;
  for (std::string current = name;;) {
    const auto found = profiles.find(current);
    if (found == profiles.end()) {
      if (!required && roles.empty()) co_return std::nullopt;
      throw StoreError(Kind::denied, "there is no profile \"" + current + "\" in " +
                                         credentials_file + " or " + config_file);
    }
    const Profile& profile = found->second;
    const std::string role = value(profile, "role_arn");
    const std::string source = value(profile, "source_profile");
    const sigv4::Keys keys{value(profile, "aws_access_key_id"),
                           value(profile, "aws_secret_access_key"),
                           value(profile, "aws_session_token")};
    Credentials credentials;
    if (!role.empty() && !source.empty() && source != current) {
      roles.push_back(profile);
      if (roles.size() > kDeepestRoles)
        throw StoreError(Kind::denied, "the profiles that \"" + name +
                                           "\" takes its role from go in a circle in " +
                                           config_file);
      current = source;
      continue;
    }
    if (!role.empty() && !value(profile, "web_identity_token_file").empty()) {
      std::string token_file = value(profile, "web_identity_token_file");
      std::string session = value(profile, "role_session_name");
      credentials = co_await from_web_identity(std::move(token_file), role, std::move(session));
    } else if (keys.complete()) {
      credentials.keys = keys;
      if (!role.empty() && source == current) roles.push_back(profile);
    } else {
      const bool other = !value(profile, "credential_process").empty() ||
                         !value(profile, "sso_start_url").empty() ||
                         !value(profile, "sso_session").empty();
      if (!required && !other && roles.empty()) co_return std::nullopt;
      throw StoreError(Kind::denied,
                       "the profile \"" + current + "\" of " + credentials_file + " and " +
                           config_file +
                           (other ? " gets its keys from a program or from SSO, which is not "
                                    "supported; put keys into the environment instead"
                                  : " holds no access key"));
    }
    for (auto profile_of_role = roles.rbegin(); profile_of_role != roles.rend();
         ++profile_of_role) {
      std::string arn = value(*profile_of_role, "role_arn");
      std::string session = value(*profile_of_role, "role_session_name");
      std::string external_id = value(*profile_of_role, "external_id");
      credentials = co_await from_role(credentials.keys, std::move(arn), std::move(session),
                                       std::move(external_id));
    }
    co_return credentials;
  }
}

asio::awaitable<Credentials> CredentialChain::from_web_identity(std::string token_file,
                                                                std::string role,
                                                                std::string session) {
  const auto token = read_file(token_file);
  if (!token)
    throw StoreError(Kind::denied, "the web identity token file " + token_file +
                                       " cannot be read; correct AWS_WEB_IDENTITY_TOKEN_FILE or "
                                       "web_identity_token_file");
  http::Query form{{"Action", "AssumeRoleWithWebIdentity"},
                   {"Version", "2011-06-15"},
                   {"RoleArn", role},
                   {"RoleSessionName", session.empty() ? "sqlstream" : session},
                   {"WebIdentityToken", trimmed(*token)}};
  Credentials credentials = co_await ask_token_service(std::move(form), nullptr);
  co_return credentials;
}

asio::awaitable<Credentials> CredentialChain::from_role(sigv4::Keys keys, std::string role,
                                                        std::string session,
                                                        std::string external_id) {
  http::Query form{{"Action", "AssumeRole"},
                   {"Version", "2011-06-15"},
                   {"RoleArn", role},
                   {"RoleSessionName", session.empty() ? "sqlstream" : session}};
  if (!external_id.empty()) form.emplace_back("ExternalId", external_id);
  Credentials credentials = co_await ask_token_service(std::move(form), &keys);
  co_return credentials;
}

asio::awaitable<Credentials> CredentialChain::ask_token_service(http::Query form,
                                                                const sigv4::Keys* keys) {
  std::string region = settings_.region;
  if (region.empty()) region = variable("AWS_REGION");
  if (region.empty()) region = variable("AWS_DEFAULT_REGION");
  std::string endpoint = variable("AWS_ENDPOINT_URL_STS");
  if (endpoint.empty())
    endpoint = region.empty() ? "https://sts.amazonaws.com"
                              : "https://sts." + region + ".amazonaws.com" +
                                    (region.starts_with("cn-") ? ".cn" : "");
  const auto url = http::parse_url(endpoint);
  if (!url) throw_no_url("AWS_ENDPOINT_URL_STS");

  const std::string body = http::encode_query(form);
  http::Request request;
  request.method = "POST";
  request.origin = url->origin;
  request.headers = {{"Content-Type", "application/x-www-form-urlencoded"}};
  request.body = as_bytes(body);
  if (keys) {
    const sigv4::Scope scope{region.empty() ? "us-east-1" : region, "sts"};
    sigv4::SigningKey key;
    sigv4::sign(request, *keys, scope, now(), crypto::hex(crypto::sha256(request.body)), key);
  }
  http::Response response;
  try {
    response = co_await client_->send(std::move(request));
  } catch (const http::Failure& failure) {
    throw StoreError(
        failure.kind() == http::Failure::Kind::tls ||
                failure.kind() == http::Failure::Kind::untrusted
            ? Kind::tls
            : Kind::unreachable,
        "the token service cannot be asked for credentials: " + std::string(failure.what()));
  }
  if (response.status == 200) {
    if (auto role = xml::parse_assumed_role(response.body)) {
      Credentials credentials;
      credentials.keys = {std::move(role->access_key_id), std::move(role->secret_access_key),
                          std::move(role->session_token)};
      credentials.expires = role->expires;
      co_return credentials;
    }
  }
  const auto error = xml::parse_error(response.body);
  throw StoreError(
      response.status >= 500 || response.status == 429 ? Kind::unavailable : Kind::denied,
      "the token service " + url->origin.str() + " gives no credentials: " +
          (error ? error->code + ": " + error->message
                 : "HTTP " + std::to_string(response.status)));
}

asio::awaitable<Credentials> CredentialChain::from_container(std::string text) {
  const auto url = http::parse_url(text);
  if (!url) throw_no_url("AWS_CONTAINER_CREDENTIALS_FULL_URI");
  http::Request request;
  request.origin = url->origin;
  request.path = url->path.empty() ? "/" : url->path;
  request.connect_timeout = request.answer_timeout = kMetadataTimeout * 5;
  std::string token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
  const std::string token_file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
  if (!token_file.empty()) {
    const auto read = read_file(token_file);
    if (!read)
      throw StoreError(Kind::denied, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names " + token_file +
                                         ", which cannot be read");
    token = trimmed(*read);
  }
  if (!token.empty()) request.headers.emplace_back("Authorization", token);
  http::Response response;
  try {
    http::Client& client = url->origin.tls ? *client_ : direct_;
    response = co_await client.send(std::move(request));
  } catch (const http::Failure& failure) {
    throw StoreError(Kind::unreachable, "the container's credentials cannot be fetched: " +
                                            std::string(failure.what()));
  }
  auto credentials = response.status == 200 ? parse_metadata_credentials(response.body)
                                            : std::optional<Credentials>();
  if (!credentials)
    throw StoreError(response.status >= 500 ? Kind::unavailable : Kind::denied,
                     "the container's credentials cannot be fetched: " + url->origin.str() +
                         " answers without any (HTTP " + std::to_string(response.status) + ")");
  co_return std::move(*credentials);
}

asio::awaitable<std::optional<Credentials>> CredentialChain::from_instance() {
  std::string endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  if (endpoint.empty()) endpoint = "http://169.254.169.254";
  const auto url = http::parse_url(endpoint);
  if (!url) throw_no_url("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  const std::string role_path = "/latest/meta-data/iam/security-credentials/";
  http::Request request;
  request.origin = url->origin;
  request.connect_timeout = request.answer_timeout = kMetadataTimeout;
  http::Request first = request;
  first.method = "PUT";
  first.path = "/latest/api/token";
  first.headers = {{"X-aws-ec2-metadata-token-ttl-seconds", "21600"}};
  try {
    const http::Response token = co_await direct_.send(std::move(first));
    if (token.status != 200) co_return std::nullopt;
    request.headers = {{"X-aws-ec2-metadata-token", trimmed(std::string(as_text(token.body)))}};
    http::Request second = request;
    second.path = role_path;
    const http::Response roles = co_await direct_.send(std::move(second));
    if (roles.status != 200) co_return std::nullopt;
    const std::string_view names = as_text(roles.body);
    request.path = role_path + trimmed(std::string(names.substr(0, names.find('\n'))));
    const http::Response answer = co_await direct_.send(std::move(request));
    if (answer.status != 200) co_return std::nullopt;
    co_return parse_metadata_credentials(answer.body);
  } catch (const http::Failure&) {
    co_return std::nullopt;  // most machines have no such service
  }
}

}  // namespace sqlstream
