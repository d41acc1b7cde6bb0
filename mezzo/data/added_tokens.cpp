#include "mezzo/data/added_tokens.h"

#include <algorithm>
#include <utility>

namespace mezzo::data {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const char first = tokens_[i].content.at(0);
    Pass& pass = passes_[tokens_[i].is_normalized ? 1 : 0];
    auto& starting = pass.starting_with[static_cast<uint8_t>(first)];
    if (starting.empty()) pass.first_bytes += first;
    starting.push_back(static_cast<int32_t>(i));
  }
  for (Pass& pass : passes_) {
    for (auto& starting : pass.starting_with) {
      std::stable_sort(starting.begin(), starting.end(), [&](int32_t a, int32_t b) {
        return tokens_[a].content.size() > tokens_[b].content.size();
      });
    }
  }
}

const AddedToken* AddedTokens::match(const Pass& pass, std::string_view text) const {
  for (const int32_t i : pass.starting_with[static_cast<uint8_t>(text[0])]) {
    if (text.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

void AddedTokens::find(const Pass& pass, std::string_view text,
                       std::vector<Segment>& segments) const {
  size_t done = 0;
  size_t i = pass.first_bytes.empty() ? text.npos : text.find_first_of(pass.first_bytes);
  while (i != text.npos) {
    const AddedToken* token = match(pass, text.substr(i));
    if (token == nullptr) {
      i = text.find_first_of(pass.first_bytes, i + 1);
      continue;
    }
    const size_t size = token->content.size();
    if (i > done) segments.push_back({text.substr(done, i - done), kOrdinary});
    segments.push_back({text.substr(i, size), token->id});
    done = i + size;
    i = text.find_first_of(pass.first_bytes, done);
  }
  if (done < text.size()) segments.push_back({text.substr(done), kOrdinary});
}

void AddedTokens::split(std::string_view text, std::vector<Segment>& segments) const {
  segments.clear();
  find(passes_[0], text, segments);
  if (passes_[1].first_bytes.empty()) return;
  std::vector<Segment> finer;
  for (const Segment& segment : segments) {
    if (segment.id == kOrdinary) {
      find(passes_[1], segment.text, finer);
    } else {
      finer.push_back(segment);
    }
  }
  segments.swap(finer);
}

}  // namespace mezzo::data
