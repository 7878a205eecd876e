// Answers as they arrive, of the model itself or of the assistant, in one form: pieces with `content`, `reasoning`, a `call` of a tool, `finish`, the answer's
// `tokens`, and before them `prefill`: tokens of the prompt that are `processed`, of its `total`. A call has a `key`, the same in all its pieces, a `name` in the first, then more of its `arguments`.

/** The answer of the model itself. */
export async function* completion(api, { messages, ...options }, signal) {
  const body = { ...options, messages, stream_options: { include_usage: true }, return_progress: true };
  for await (const chunk of api.stream("v1/chat/completions", body, signal)) {
    if (chunk.prompt_progress) yield { prefill: chunk.prompt_progress };
    const [choice] = chunk.choices;
    const { content, reasoning_content: reasoning, tool_calls: calls = [] } = choice?.delta ?? {};
    if (content || reasoning) yield { content, reasoning };
    for (const { index, function: { name, arguments: text } } of calls) yield { call: { key: index, name, arguments: text } };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (chunk.usage) yield { tokens: chunk.usage.completion_tokens };
  }
}

/** How the server labels its own tools. */
const LABEL = "llmasos";

/**
 * The answer of the server's assistant, which calls tools on its way. A call that waits to be confirmed has `asks`; the assistant goes on when
 * it is asked again with the `item`s of its answer and what `decision` makes.
 */
export async function* assisted(api, { messages, max_tokens: most, ...options }, items, signal) {
  const tools = [{ type: "mcp", server_label: LABEL, require_approval: "always" }];
  const body = { ...options, input: [...messages, ...items], tools, ...(most && { max_output_tokens: most }) };
  for await (const event of api.stream("v1/responses", body, signal)) {
    const { type, delta, item, item_id: key, response } = event;
    if (type === "response.output_text.delta") yield { content: delta };
    if (type === "response.output_item.added" && item.type === "mcp_call") yield { call: { key: item.id, name: item.name } };
    if (type === "response.mcp_call_arguments.delta") yield { call: { key, arguments: delta } };
    if (type === "response.output_item.done") yield { item, ...(ENDED[item.type]?.(item) ?? {}) };
    if (response?.usage) yield { tokens: response.usage.output_tokens, finish: response.incomplete_details ? "length" : "stop" };
  }
}

/** Type of an item that has ended -> the piece that it is. */
const ENDED = {
  mcp_call: ({ id: key, output: result, error }) => ({ call: { key, ...(error ? { error: told(error) } : { result }) } }),
  mcp_approval_request: ({ id: key, name, arguments: text }) => ({ call: { key, name, arguments: text, asks: true } }),
};

function told({ content = [] }) {
  return content.map((part) => part.text ?? "").join("\n");
}

/** What tells the assistant whether a call may be run. */
export function decision(key, approve) {
  return { type: "mcp_approval_response", approval_request_id: key, approve };
}
