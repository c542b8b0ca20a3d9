import sys

try:
    from lampq.launch.command_line import main
except KeyboardInterrupt:  # nothing has begun
    print("interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":  # jobs of a grid run in processes that import this file again
    main()
