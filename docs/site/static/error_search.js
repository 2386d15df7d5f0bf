// Find the messages that a pasted one may be. A message is known by its fixed words; names and numbers in it are the user's.

(() => {
  const SHOWN = 5;
  const LEAST = 0.6; // share of a message's fixed words, weighted by how rare they are, that must be in what was pasted

  const script = document.currentScript;
  const root = document.documentElement.dataset.content_root || "./";

  const wordsOf = (text) => new Set(text.toLowerCase().match(/[\p{L}]{2,}/gu) || []);

  function weights(messages) {
    const counts = new Map();
    for (const { words } of messages) for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
    return (word) => Math.log(1 + messages.length / (counts.get(word) || messages.length));
  }

  function find(messages, pasted) {
    const words = wordsOf(pasted);
    const weight = weights(messages);
    const sum = (list) => list.reduce((total, word) => total + weight(word), 0);
    return messages
      .map((message) => {
        const found = sum(message.words.filter((word) => words.has(word)));
        return { message, share: found / sum(message.words), found };
      })
      .filter(({ share }) => share >= LEAST)
      .sort((one, other) => other.found * other.share - one.found * one.share)
      .slice(0, SHOWN);
  }

  function show(list, pasted) {
    list.replaceChildren();
    const found = find(window.bridgeworkErrors, pasted);
    for (const { message } of found) {
      const item = document.createElement("li");
      const link = Object.assign(document.createElement("a"), { href: root + message.at, textContent: message.text });
      const kind = Object.assign(document.createElement("small"), { textContent: ` ${message.kind}` });
      item.append(link, kind);
      list.append(item);
    }
    return found.length;
  }

  function load(then) {
    if (window.bridgeworkErrors) return then();
    const data = document.createElement("script");
    data.src = new URL("error_messages.js", script.src).href;
    data.onload = then;
    document.head.append(data);
  }

  function addBox(add, query) {
    const panel = Object.assign(document.createElement("div"), { className: "error-search" });
    const title = Object.assign(document.createElement("strong"), { textContent: "Paste an error message" });
    const field = Object.assign(document.createElement("textarea"), { rows: 2, value: query });
    const none = document.createElement("small");
    const list = document.createElement("ol");
    field.setAttribute("aria-label", title.textContent);
    const look = () =>
      load(() => {
        const count = show(list, field.value);
        none.textContent = count || !field.value.trim() ? "" : "No message of Bridgework says this.";
      });
    field.addEventListener("input", look);
    panel.append(title, field, none, list);
    add(panel);
    if (query) look();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const query = new URLSearchParams(location.search).get("q") || "";
    const page = location.pathname.split("/").pop().replace(/\.html$/, "");
    const place = document.querySelector(page === "search" ? "#search-results" : "h1");
    if (place && page === "search") addBox((panel) => place.before(panel), query);
    else if (place && page === "errors") addBox((panel) => place.after(panel), query);
  });
})();
