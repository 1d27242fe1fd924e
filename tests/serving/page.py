"""The application on a real port, and what tests ask of its page: scripts that run in the browser."""

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from dreamrl.serving.app import make_app

READY = "document.body?.dataset.ready === 'yes'"
ASK = "document.getElementById('go').click()"
ANSWERED = "document.querySelector('.said') !== null && document.getElementById('stop').disabled"
CONTRAST = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const poor = [];
  for (const element of document.querySelectorAll('main *, header *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility() || element.closest(':disabled') || element.closest('svg')) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""
NAMELESS = """[...document.querySelectorAll('button, input, select, textarea, img, [role=button]')].filter((e) =>
    e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim() || e.title || e.labels?.length
    || (e.tagName === 'IMG' && e.hasAttribute('alt')))).map((e) => e.outerHTML.slice(0, 80))"""


@contextmanager
def hosted(service):
    """The address of the application around ``service``, which ends with it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(service), log_config=None, access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
    service.engine.close()


def fresh(browser, address):
    """Load the page anew, as on a large screen."""
    browser.look(1400)
    browser.run("document.body.dataset.ready = 'no'")
    browser.call("Page.navigate", url=address)
    browser.wait(READY)
