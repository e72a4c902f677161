// The page: takes a picture in, runs the network on it, shows what it answers.

const SHOWN = 3; // classes
const PREVIEW = 640; // pixels, the side of the picture on the page
const about = JSON.parse(element("about").textContent); // classes, size, calibration
const network = loaded(); // a promise of a function from pixels to probabilities
let newest; // picture; an older one's answer comes too late

function element(id) {
  return document.getElementById(id);
}

// The network -----------------------------------------------------------------------------------

/** What a data block of the page holds: ArrayBuffer. */
async function unpacked(id) {
  const text = atob(element(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function loaded() {
  await new Promise(requestAnimationFrame); // the page appears first
  const script = new Blob([await unpacked("runtime-script")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(script));
  ort.env.wasm.numThreads = 1; // a page opened from disk may not share memory with threads
  ort.env.wasm.wasmBinary = await unpacked("runtime-binary");
  const session = await ort.InferenceSession.create(new Uint8Array(await unpacked("model")));
  return async (rgb) => {
    const pixels = new ort.Tensor("uint8", rgb, [1, about.size, about.size, 3]);
    const { probabilities } = await session.run({ pixels });
    return probabilities.data;
  };
}

network.then(() => newest || say("Ready for your picture", known()), broken);

function broken(error) {
  refuse("The model cannot run in this browser", `${error.message ?? error}`);
}

// What the page shows ---------------------------------------------------------------------------

/** Say it in the live region, which screen readers read out. */
function say(headline, detail = "") {
  element("headline").textContent = headline;
  element("detail").textContent = detail;
}

/** Say why there is no answer. */
function refuse(headline, detail) {
  document.body.classList.remove("answered");
  element("answers").replaceChildren();
  say(headline, detail);
}

/** What the network can answer, unless that is too long to read. */
function known() {
  const all = about.classes.join(", ");
  return all.length > 200 ? "" : `The classes are ${all}.`;
}

async function classify(source) {
  newest = source;
  let bitmap;
  try {
    // Colours and orientation as Pillow takes them.
    const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
    bitmap = await createImageBitmap(source, options);
  } catch {
    const name = source.name ? `${source.name}: ` : "";
    return refuse("Not a picture", `${name}this browser cannot read it as an image.`);
  }
  if (source !== newest) return;
  const pixels = resample(middleSquare(bitmap, source.type === "image/jpeg"), about.size);
  draw(bitmap, pixels);
  bitmap.close();
  say("Looking…");
  try {
    const predict = await network;
    const probabilities = await predict(pixels.filter((_, at) => at % 4 < 3));
    if (source === newest) show(probabilities);
  } catch (error) {
    broken(error);
  }
}

function draw(bitmap, pixels) {
  const side = Math.min(bitmap.width, bitmap.height);
  const preview = element("preview");
  preview.width = preview.height = Math.min(side, PREVIEW);
  const pen = preview.getContext("2d");
  pen.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  pen.drawImage(bitmap, left, top, side, side, 0, 0, preview.width, preview.width);
  const seen = element("seen");
  seen.width = seen.height = about.size;
  const image = new ImageData(new Uint8ClampedArray(pixels), about.size);
  seen.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
  document.body.classList.add("answered");
}

function show(probabilities) {
  const ranked = about.classes
    .map((name, index) => ({ name, probability: probabilities[index] }))
    .sort((one, other) => other.probability - one.probability);
  const [first] = ranked;
  say(`${first.name}, ${percent(first.probability)}`, sureness(first.probability));
  element("answers").replaceChildren(
    ...ranked.slice(0, SHOWN).map(({ name, probability }) => {
      const row = element("answer").content.cloneNode(true).firstElementChild;
      row.querySelector(".name").textContent = name;
      row.querySelector(".share").textContent = percent(probability);
      row.querySelector(".bar").style.setProperty("--share", probability);
      return row;
    }),
  );
}

/** How sure the network is, and how often it was right about test images when it was as sure. */
function sureness(probability) {
  const words = probability >= 0.9 ? "Very sure." : probability >= 0.6 ? "Fairly sure." : "Not sure.";
  const bin = about.calibration.find(({ lower, upper }) => lower < probability && probability <= upper);
  if (!bin) return words;
  const bounds = `${Math.round(100 * bin.lower)} to ${Math.round(100 * bin.upper)}\u00a0%`;
  const right = `${Math.round(100 * bin.accuracy)}\u00a0%`;
  const count = bin.count.toLocaleString("en");
  return `${words} Of ${count} test images that it was this sure of (${bounds}), it got ${right} right.`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

// Ways for a picture to come in -----------------------------------------------------------------

/** Classify the first of some files, if there is one. */
function take(files) {
  if (files.length) classify(files[0]);
}

for (const name of ["file", "photo"]) {
  const input = element(name);
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that choosing the same file again is a change
  });
}
element("choose").addEventListener("click", () => element("file").click());

document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const { files } = event.dataTransfer;
  if (!files.length) refuse("Not a file", "Save the picture first, or copy it and paste it here.");
  take(files);
});

const camera = element("camera");
const video = element("video");
const shutter = element("shutter");

element("open-camera").addEventListener("click", async ({ currentTarget: button }) => {
  const devices = navigator.mediaDevices;
  // A phone has a better camera app than this page.
  if (!devices || matchMedia("(pointer: coarse)").matches) return element("photo").click();
  button.disabled = true; // a second click would open a second camera, which nothing closes
  try {
    video.srcObject = await devices.getUserMedia({ video: true });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    return refuse(
      "No camera",
      denied ? "The browser does not let this page use it." : "This device has none that is free.",
    );
  } finally {
    button.disabled = false;
  }
  camera.showModal();
});
video.addEventListener("playing", () => (shutter.disabled = false));
shutter.addEventListener("click", async () => {
  await classify(video);
  camera.close();
});
element("close-camera").addEventListener("click", () => camera.close());
camera.addEventListener("close", () => {
  for (const track of video.srcObject.getTracks()) track.stop();
  video.srcObject = null;
  shutter.disabled = true;
});
