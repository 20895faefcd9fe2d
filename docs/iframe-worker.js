// Browsers start no worker from a file, and the search of these pages is one. Where they are opened without a server, a
// hidden frame stands in for it: the frame shares the page's origin, runs the script, and passes its messages on.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.waiting = []
      this.inside.postMessage = data => setTimeout(() => {
        const message = new MessageEvent("message", { data })
        this.dispatchEvent(message)
        this.onmessage?.(message)
      })
      this.inside.importScripts = (...urls) => Promise.all(urls.map(one => this.load(one)))
      this.load(new URL(url, location.href)).then(() => {
        this.ready = true
        this.waiting.splice(0).forEach(data => this.tell(data))
      })
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.inside.document.createElement("script")
        script.src = url
        script.onload = resolve
        script.onerror = reject
        this.inside.document.body.append(script)
      })
    }

    tell(data) {
      this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }))
    }

    postMessage(data) {
      if (this.ready) this.tell(data)
      else this.waiting.push(data)
    }

    terminate() {
      this.inside.frameElement?.remove()
    }
  }
}
