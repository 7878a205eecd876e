// Images that go with the next message: chosen, pasted or dropped. They stay in the page, as data: URLs, until they are sent.

import { button, el, fill } from "./dom.js";
import { t } from "./words.js";

/** First bytes of a file, and what follows them after four more -> its media type. What a file says of itself does not count. */
const KINDS = [
  [[0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], [], "image/png"],
  [[0xff, 0xd8, 0xff], [], "image/jpeg"],
  [[0x52, 0x49, 0x46, 0x46], [0x57, 0x45, 0x42, 0x50], "image/webp"],
];
/** Pixels that the server reads of an image at most. */
const MOST_PIXELS = 50_000_000;
/** Share of a request's body that images may take; the rest is for the text. */
const SHARE = 0.9;

/** What may stand in an exported conversation as an image. */
export const IMAGE = /^data:image\/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;

export class Attachments {
  #urls = [];
  #refuse;
  #rest;

  /**
   * `place`: onto which files are dropped; `input`: into which they are pasted. `refuse` tells a sentence; empty: nothing is wrong any more.
   * `rest` gives why no image can be sent now, or empty, and how many characters of the request's body are taken.
   */
  constructor(place, input, refuse, rest) {
    this.#refuse = refuse;
    this.#rest = rest;
    this.list = el("ul", { class: "pictures", "aria-label": t("attached"), hidden: true });
    this.file = el("input", {
      type: "file", accept: "image/png,image/jpeg,image/webp", multiple: true, class: "unseen", tabindex: -1, "aria-label": t("attach"),
    });
    this.button = button(t("attach"), () => this.file.click(), { hidden: true });
    this.file.addEventListener("change", async () => {
      await this.#add([...this.file.files]);
      this.file.value = "";
    });
    input.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return; // a text, which the input takes by itself
      event.preventDefault();
      this.#add(files);
    });
    place.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault(); // else the browser would open the file instead of the page
    });
    place.addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.#add([...event.dataTransfer.files]);
    });
  }

  get urls() {
    return this.#urls;
  }

  /** Show the button where images can be sent. */
  offer(on) {
    this.button.hidden = !on;
  }

  /** The images, which are no longer attached. */
  take() {
    const taken = this.#urls;
    this.#urls = [];
    this.#draw();
    return taken;
  }

  async #add(files) {
    this.#refuse("");
    for (const file of files) {
      const { reason, taken, room } = this.#rest();
      if (reason) return this.#refuse(reason);
      const left = room * SHARE - taken - this.#urls.reduce((sum, each) => sum + each.length, 0);
      // Base64 takes four characters for three bytes.
      if ((file.size / 3) * 4 > left) {
        this.#refuse(t("image too large", { name: file.name, most: ((room * SHARE * 3) / 4 / 2 ** 20).toFixed(1) }));
        continue;
      }
      const url = await read(file);
      if (url) this.#urls.push(url);
      else this.#refuse(t("no image", { name: file.name, pixels: MOST_PIXELS / 1e6 }));
    }
    this.#draw();
  }

  #draw() {
    this.list.hidden = !this.#urls.length;
    const remove = (place) => () => {
      this.#urls.splice(place, 1);
      this.#draw();
      (this.list.querySelectorAll("button")[Math.min(place, this.#urls.length - 1)] ?? this.button).focus();
    };
    fill(this.list, this.#urls.map((url, place) =>
      el("li", {}, picture(url, place), button("✕", remove(place), { label: t("remove image", { number: place + 1 }), class: "quiet" })),
    ));
  }
}

/** An image in the page. */
export function picture(url, place) {
  return el("img", { src: url, alt: t("image", { number: place + 1 }) });
}

/** The data: URL of an image that a browser can draw; null where it is none, or too large. */
async function read(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const starts = (wanted, at) => wanted.every((byte, place) => bytes[at + place] === byte);
  const kind = KINDS.find(([first, more]) => starts(first, 0) && starts(more, 8))?.[2];
  if (!kind) return null;
  const image = new Blob([bytes], { type: kind });
  try {
    const drawn = await createImageBitmap(image);
    const pixels = drawn.width * drawn.height;
    drawn.close();
    if (pixels > MOST_PIXELS) return null;
  } catch {
    return null; // damaged
  }
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(image);
  });
}
