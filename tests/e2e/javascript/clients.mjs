// What people call a model with in JavaScript: the calls that are named, at an address, with a key; what came, as JSON.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [base, apiKey, model, withTools, asked] = process.argv.slice(2);
const api = `${base}/v1`;
const openai = new OpenAI({ baseURL: api, apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey, maxRetries: 0 });
const vercelOpenai = createOpenAI({ baseURL: api, apiKey });
const vercelAnthropic = createAnthropic({ baseURL: api, apiKey });

const LIMIT = 12;
const name = "weather";
const description = "The weather at a place.";
const place = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
const has = (tools) => (withTools === "tools" ? { tools } : {});

const messages = (words) => [{ role: "user", content: words }];
const chat = (words) => ({
  model, messages: messages(words), max_tokens: LIMIT, temperature: 0,
  ...has([{ type: "function", function: { name, description, parameters: place } }]),
});
const streamed = { stream: true, stream_options: { include_usage: true } };
const response = (words) => ({
  model, input: words, max_output_tokens: LIMIT, temperature: 0,
  ...has([{ type: "function", name, description, parameters: place, strict: false }]),
});
const message = (words) => ({
  model, messages: messages(words), max_tokens: LIMIT, temperature: 0,
  ...has([{ name, description, input_schema: place }]),
});
const generated = (of, words) => ({
  model: of(model), messages: messages(words), maxOutputTokens: LIMIT, temperature: 0, maxRetries: 0,
  ...(withTools === "tools" ? { tools: { [name]: tool({ description, inputSchema: z.object({ place: z.string() }) }) } } : {}),
});

async function all(stream) {
  const came = [];
  for await (const event of await stream) came.push(event);
  return came;
}

async function told(result) {
  return {
    text: await result.text,
    finishReason: await result.finishReason,
    usage: await result.usage,
    toolCalls: (await result.toolCalls).map(({ toolName, input, invalid }) => ({ toolName, input, invalid })),
  };
}

async function toldStream(of, words) {
  const failed = [];
  const result = streamText({ ...generated(of, words), onError: ({ error }) => failed.push(String(error)) });
  const seen = await told(result);
  return failed.length ? { failed } : seen;
}

const KINDS = { chat: vercelOpenai.chat, responses: vercelOpenai.responses, messages: vercelAnthropic };
const CALLS = {
  "openai chat": (words) => openai.chat.completions.create(chat(words)),
  "openai chat, streamed": (words) => all(openai.chat.completions.create({ ...chat(words), ...streamed })),
  "openai chat, streamed and joined": (words) => openai.chat.completions.stream(chat(words)).finalChatCompletion(),
  "openai responses": (words) => openai.responses.create(response(words)),
  "openai responses, streamed": (words) => all(openai.responses.create({ ...response(words), stream: true })),
  "openai responses, streamed and joined": (words) => openai.responses.stream(response(words)).finalResponse(),
  "anthropic messages": (words) => anthropic.messages.create(message(words)),
  "anthropic messages, streamed": (words) => all(anthropic.messages.create({ ...message(words), stream: true })),
  "anthropic messages, streamed and joined": (words) => anthropic.messages.stream(message(words)).finalMessage(),
};
for (const [kind, of] of Object.entries(KINDS)) {
  CALLS[`vercel ${kind}`] = async (words) => told(await generateText(generated(of, words)));
  CALLS[`vercel ${kind}, streamed`] = (words) => toldStream(of, words);
}

const results = {};
for (const [call, words] of Object.entries(JSON.parse(asked))) {
  try {
    results[call] = await CALLS[call](words);
  } catch (error) {
    results[call] = { failed: String(error) };
  }
}
process.stdout.write(JSON.stringify(results));
