// A question to the models: each one's answer before any edit and after, as they stream in, and what the gate made of it.

import { aborted, call, events } from "./api.js";

const EVERY = "*";
const SIDES = [
  { side: "before", extension: { unedited: true } },
  { side: "after", extension: { unedited: false } },
];

const blank = () => ({ text: "", state: "waiting", weight: null, alone: null, version: "", reason: "" });

export const asking = () => ({
  models: [],
  model: EVERY,
  prompt: "",
  shape: "text",
  tokens: 24,
  rows: [],
  asked: "",
  busy: false,
  problem: { message: "", status: 0 },
  spoken: "",
  stopper: null,

  init() {
    this.$watch("$store.keys.version", () => this.load());
    this.load();
  },

  async load() {
    try {
      const { data } = await call("models", { key: this.$store.keys.asking });
      this.models = data.map((card) => card.id);
      if (!this.models.includes(this.model)) this.model = EVERY;
      this.problem = { message: "", status: 0 };
    } catch (error) {
      this.tell(error);
    }
  },

  /** Put a question as if it had been typed; the edits' list does. */
  async take(prompt) {
    this.prompt = prompt;
    await this.ask();
    document.getElementById("ask").scrollIntoView({ block: "start" });
  },

  async ask() {
    this.stop();
    const stopper = new AbortController();
    this.stopper = stopper;
    await this.load(); // a model may have come since
    if (this.problem.message || stopper.signal.aborted) return;
    const names = this.model === EVERY ? this.models : [this.model];
    this.rows = names.map((model) => ({ model, before: blank(), after: blank() }));
    const rows = this.rows;
    this.asked = this.prompt;
    this.spoken = "Asked; the answers are being written.";
    this.busy = true;
    const said = await Promise.allSettled(SIDES.map((each) => this.listen(each, rows, stopper.signal)));
    if (this.stopper !== stopper) return; // another question took its place
    this.busy = false;
    this.stopper = null;
    const failed = said.find((each) => each.status === "rejected");
    if (failed && !aborted(failed.reason)) this.tell(failed.reason);
    else this.spoken = this.summary();
  },

  stop() {
    this.stopper?.abort();
    this.stopper = null;
    this.busy = false;
  },

  async listen({ side, extension }, rows, signal) {
    const key = this.$store.keys.asking;
    try {
      for await (const chunk of events(this.path, { body: this.body(extension), key, signal })) {
        for (const choice of chunk.choices) {
          const answer = rows[choice.index]?.[side];
          if (!answer) continue; // of a model that came while the question was under way
          answer.state = "writing";
          answer.text += choice.text ?? choice.delta?.content ?? "";
          if (choice.onceedit) {
            const { weight, alone, version } = choice.onceedit;
            Object.assign(answer, { state: "done", reason: choice.finish_reason, weight, alone, version });
          }
        }
      }
    } finally {
      for (const row of rows) if (row[side].state !== "done") row[side].state = "cut";
    }
  },

  get path() {
    return this.shape === "chat" ? "chat/completions" : "completions";
  },

  body(extension) {
    const said =
      this.shape === "chat" ? { messages: [{ role: "user", content: this.asked }] } : { prompt: this.asked };
    const settings = { model: this.model, max_tokens: Number(this.tokens), temperature: 0, stream: true };
    return { ...settings, ...said, onceedit: extension };
  },

  tell(error) {
    this.problem = { message: error.message, status: error.status ?? 0 };
  },

  // What a row shows. An answer is compared when both sides have ended.
  verdict(row) {
    if (row.before.state !== "done" || row.after.state !== "done") return "";
    return row.before.text.trim() === row.after.text.trim() ? "same" : "changed";
  },

  verdictText(row) {
    return { changed: "Edited", same: "As before", "": "" }[this.verdict(row)];
  },

  shown(answer) {
    if (answer.text.trim()) return answer.text.trim();
    return { done: "(no answer: it ended at once)", cut: "(stopped)" }[answer.state] ?? "";
  },

  weightText(answer) {
    return answer.weight === null ? "–" : answer.weight.toFixed(3);
  },

  gateText(answer) {
    if (answer.weight === null) return "";
    if (!answer.alone) return "Gate open: the edit speaks";
    return answer.weight === 0 ? "Gate closed: no edited subject" : "Gate closed: not about an edit";
  },

  summary() {
    const changed = this.rows.filter((row) => this.verdict(row) === "changed").map((row) => row.model);
    return changed.length ? `Answered. The edit changed ${changed.join(", ")}.` : "Answered, as before any edit.";
  },
});
