// The root of the service, also below a path prefix: this file is docs/page.js.
const root = new URL("..", document.currentScript.src);

const plugin = (system) => ({
  statePlugins: {
    auth: {
      wrapActions: {
        // Swagger UI resolves the token URL against this page, which is at docs and at docs/.
        authorizeRequest: (authorizeRequest) => (request) =>
          authorizeRequest({ ...request, url: new URL(request.url, root).href }),
      },
    },
    err: {
      wrapActions: {
        // Of "Error: Unauthorized, error: invalid_grant, description: Incorrect username or password" the last part.
        newAuthErr: (newAuthErr) => (error) =>
          newAuthErr({ ...error, message: error.message.replace(/^.*, description: /s, "") }),
      },
    },
  },
  wrapComponents: {
    // There is one server, the one that this page is from.
    ServersContainer: () => () => null,
    // A failed login is reported where it was typed, not also on top of the page.
    errors: () => () => null,
    // Every response has this one; the introduction says so once.
    headers: (Headers) => (props) =>
      system.React.createElement(Headers, { ...props, headers: props.headers?.delete("X-Request-ID") }),
  },
});

SwaggerUIBundle({
  url: new URL("openapi.json", root).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  plugins: [plugin],
});
