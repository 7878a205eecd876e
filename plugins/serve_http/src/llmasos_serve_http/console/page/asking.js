// Answers as they arrive, whoever gives them, in one form: pieces with `content`, `reasoning`, a `call` of a tool, `finish`, and the answer's
// `tokens`. A call has a `key`, the same in all its pieces, a `name` in the first, then more of its `arguments`.

/** The answer of the model itself. */
export async function* completion(api, { messages, ...options }, signal) {
  const body = { ...options, messages, stream_options: { include_usage: true } };
  for await (const chunk of api.stream("v1/chat/completions", body, signal)) {
    const [choice] = chunk.choices;
    const { content, reasoning_content: reasoning, tool_calls: calls = [] } = choice?.delta ?? {};
    if (content || reasoning) yield { content, reasoning };
    for (const { index, function: { name, arguments: text } } of calls) yield { call: { key: index, name, arguments: text } };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (chunk.usage) yield { tokens: chunk.usage.completion_tokens };
  }
}
