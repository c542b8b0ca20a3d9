from lampq.launch.command_line import main

if __name__ == "__main__":  # jobs of a grid run in processes that import this file again
    main()
