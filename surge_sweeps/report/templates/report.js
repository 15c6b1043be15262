"use strict";
(() => {
  const store = JSON.parse(document.getElementById("figures").textContent);
  const packed = document.getElementById("plotly-js").textContent;
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displayModeBar: false, displaylogo: false };

  const themed = (value) => {
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, themed(one)]));
    }
    return dark.matches && typeof value === "string" ? store.dark[value] ?? value : value;
  };

  const draw = (plot) => {
    const figure = themed(store.figures[plot.id]);
    return Plotly.react(plot, figure.data, figure.layout, config).then(() => { plot.dataset.drawn = "yes"; });
  };

  const unpack = async () => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const choose = (button) => {
    const buttons = [...button.parentElement.children];
    const choices = [...button.closest(".figure").querySelectorAll(".choice")];
    buttons.forEach((one, place) => {
      one.setAttribute("aria-pressed", String(one === button));
      choices[place].hidden = one !== button;
    });
    const plot = choices[buttons.indexOf(button)].querySelector(".plot");
    if (plot && !plot.dataset.drawn && "Plotly" in window) draw(plot);
  };

  document.querySelectorAll(".choices button").forEach((button) => {
    button.addEventListener("click", () => choose(button));
  });
  // A tracker may show the page in a sandboxed frame, where a link inside the page is refused.
  if (location.protocol === "blob:") {
    document.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#"]');
      const goal = link && document.getElementById(link.getAttribute("href").slice(1));
      if (!goal) return;
      event.preventDefault();
      goal.scrollIntoView();
    });
  }
  if (!plots.length) return;
  if (!("DecompressionStream" in window)) {
    for (const plot of plots) {
      plot.className = "missing";
      plot.textContent = "This browser is too old to draw the figures; the tables hold the same numbers.";
    }
    return;
  }
  unpack().then(() => {
    // A figure is drawn when it comes near the screen; a hidden one has no place there until it is chosen.
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          watcher.unobserve(entry.target);
          draw(entry.target);
        }
      }
    }, { rootMargin: "600px" });
    plots.forEach((plot) => watcher.observe(plot));
    dark.addEventListener("change", () => plots.filter((plot) => plot.dataset.drawn).forEach(draw));
  });
})();
