"""What puts the runtime under other people's code: HTTP clients for SDKs, LangChain, FastAPI.

Each module needs the library it is named after, and nothing here is imported before somebody asks for it.
"""
